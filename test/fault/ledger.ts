import { defined } from '../../src/core/assert.ts';
import type { ReadonceClient } from '../../src/client/client.ts';
import type { Context, QueryRequest } from '../../src/client/types.ts';
import type { Recipe } from './recipes.ts';

/** What of a context's usage a client sets. */
export interface Usage {
  readonly step: string;
  readonly pinned: boolean;
  readonly expires: boolean;
}

/** A question to a context and the answer it must give for ever. */
export interface Expected {
  readonly request: QueryRequest;
  readonly answer: string;
}

/** What a client may count on for one recipe's context. */
export interface Promised {
  readonly recipe: Recipe;
  readonly id: string;
  /** What an undisturbed server stored. */
  readonly size: Context['size'];
  /** With all that was kept, and, where that can be, with less. */
  readonly expected: readonly Expected[];
  /** `unknown`: a request that would change it was not answered. */
  presence: 'present' | 'absent' | 'unknown';
  /** The usages it may have if it is present: more than one after a lost answer. */
  usages: readonly Usage[];
  /** A request that writes it is on its way. */
  busy: boolean;
  /** Grows with each request that writes it. */
  writes: number;
}

/** Something that must never happen. */
export interface Violation {
  readonly kind:
    | 'wrong answer'
    | 'lost'
    | 'came back'
    | 'stranger'
    | 'usage'
    | 'half-written'
    | 'leak'
    | 'error';
  readonly round: number;
  readonly detail: string;
}

const answerTokens = 24;

/** The usage of a context as clients see it. */
export function usageOf({ labels, pinned, expiresAt }: Context): Usage {
  return { step: labels['step'] ?? '', pinned, expires: expiresAt !== null };
}

/** Whether a context may have this usage. */
export function mayHave(promised: Promised, usage: Usage): boolean {
  const seen = JSON.stringify(usage);
  return promised.usages.some((allowed) => JSON.stringify(allowed) === seen);
}

/**
 * Puts every recipe into a server that nothing disturbs, each by itself, so that none is made from
 * another; records what it answers; and deletes all again.
 */
export async function recordPromises(
  client: ReadonceClient,
  recipes: readonly Recipe[],
): Promise<readonly Promised[]> {
  const promises: Promised[] = [];
  for (const recipe of recipes) {
    const context = await client.put(recipe.put);
    const expected: Expected[] = [];
    for (const keepRatio of askedRatios(recipe)) {
      const request = { query: recipe.question, maxTokens: answerTokens, keepRatio };
      expected.push({ request, answer: (await client.query(context.id, request)).answer });
    }
    await client.delete(context.id);
    promises.push({
      recipe,
      id: context.id,
      size: context.size,
      expected,
      presence: 'absent',
      usages: [],
      busy: false,
      writes: 0,
    });
  }
  return promises;
}

/** All that was kept, and half of it; pairs without scores cannot be used in part. */
function askedRatios({ put }: Recipe): readonly number[] {
  const { method, keepRatio } = put.compression;
  return method === 'none' ? [keepRatio] : [keepRatio, keepRatio / 2];
}

/** All contexts a server lists. */
export async function listAll(client: ReadonceClient): Promise<readonly Context[]> {
  const contexts: Context[] = [];
  for (let cursor: string | null | undefined; cursor !== null;) {
    const page = await client.list({ limit: 5, ...(cursor === undefined ? {} : { cursor }) });
    contexts.push(...page.data);
    cursor = page.nextCursor;
  }
  return contexts;
}

/** One of `items`; there is at least one. */
export function pick<T>(items: readonly T[], random: { next(): number }): T {
  return defined(items[Math.floor(random.next() * items.length)], 'something to choose from');
}
