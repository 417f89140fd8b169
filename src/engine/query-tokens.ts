import { concatenate } from '../core/concatenate.ts';
import { ReadonceError } from '../core/errors.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import { leastTokens } from './document.ts';
import type { ChatMessage } from './protocol.ts';

/** Turns behind a document or a session's conversation, which hold the window's beginning. */
export interface TurnsToEncode {
  /** Tokens already held: prefix, document and, in a session, earlier turns. */
  readonly contextTokens: number;
  /** As `EngineQuery.turns`. */
  readonly turns: readonly ChatMessage[];
  /** Of the answer; they must fit too. */
  readonly maxTokens: number;
}

/** One more question of a session. */
export interface FollowUpToEncode {
  /** Tokens already held: prefix, document, earlier turns and answers. */
  readonly contextTokens: number;
  readonly turn: string;
  readonly maxTokens: number;
}

/** A query with everything it is asked of. */
export interface PromptToEncode {
  /** Undefined: an ordinary chat. */
  readonly document: string | undefined;
  readonly instructions: string | undefined;
  readonly turns: readonly ChatMessage[];
  readonly maxTokens: number;
}

/** Token ids of a whole prompt. */
export interface EncodedPrompt {
  readonly ids: Int32Array;
  /** The document's among them, behind the prefix; 0 in an ordinary chat. */
  readonly documentTokens: number;
}

/**
 * Token ids of the turns that follow a document (`PromptTemplate.turnIds`).
 * @throws ReadonceError `context_too_long` if context, turns and answer do not fit the window (a
 * text that cannot fit is refused before all of it is tokenised), `unsupported` if the model's
 * template has no conversations
 */
export function encodeTurns(checkpoint: Checkpoint, request: TurnsToEncode): Int32Array {
  const texts = request.turns.map(({ content }) => content);
  return encodeFitting(checkpoint, { ...request, texts }, () =>
    checkpoint.template.turnIds(request.turns),
  );
}

/**
 * Token ids of a session's next question, from the end of the answer before it.
 * @throws ReadonceError as `encodeTurns` does
 */
export function encodeFollowUp(checkpoint: Checkpoint, request: FollowUpToEncode): Int32Array {
  return encodeFitting(checkpoint, { ...request, texts: [request.turn] }, () =>
    checkpoint.template.followUpIds(request.turn),
  );
}

/**
 * Token ids of a query whose document, if there is one, is not stored: the same as those of a
 * context of the document and of the turns asked of it.
 * @throws ReadonceError as `encodeTurns` does
 */
export function encodePrompt(checkpoint: Checkpoint, request: PromptToEncode): EncodedPrompt {
  const { document, instructions, turns, maxTokens } = request;
  const { template, tokenizer } = checkpoint;
  const texts = [instructions ?? '', document ?? '', ...turns.map(({ content }) => content)];
  let documentTokens = 0;
  const ids = encodeFitting(checkpoint, { contextTokens: 0, texts, maxTokens }, () => {
    if (document === undefined) {
      const system = { role: 'system', content: instructions ?? '' } as const;
      return template.chatIds([system, ...turns]);
    }
    const documentIds = tokenizer.encode(document);
    documentTokens = documentIds.length;
    return concatenate(template.prefixIds(instructions), documentIds, template.turnIds(turns));
  });
  return { ids, documentTokens };
}

interface Fitting {
  readonly contextTokens: number;
  /** What the client sent, to be looked at before it is tokenised. */
  readonly texts: readonly string[];
  readonly maxTokens: number;
}

function encodeFitting(
  { tokenizer, config, id }: Checkpoint,
  { contextTokens, texts, maxTokens }: Fitting,
  encode: () => Int32Array,
): Int32Array {
  const window = config.contextLength;
  const tooLong = (queryTokens: number | string): ReadonceError =>
    new ReadonceError(
      'context_too_long',
      `Expected context, query and maxTokens to fit the ${window} tokens of ${id} ` +
        `but got ${contextTokens} + ${queryTokens} + ${maxTokens}`,
      { details: { contextTokens, queryTokens, maxTokens, window } },
    );
  const room = window - contextTokens - maxTokens;
  // Blank lines keep the texts apart, so that the bound stays one.
  const atLeast = leastTokens(tokenizer, texts.join('\n\n'), room);
  if (atLeast > room) throw tooLong(`at least ${atLeast}`);
  const ids = encode();
  if (ids.length > room) throw tooLong(ids.length);
  return ids;
}
