import { ReadonceError } from '../core/errors.ts';
import type { Precision } from '../core/precision.ts';
import type { Budget } from './budget.ts';
import { globalBudget } from './budgets/global.ts';
import { uniformBudget } from './budgets/uniform.ts';
import type { ScoringMethod } from './method.ts';
import { keyNorm } from './methods/key-norm.ts';
import { kvzip } from './methods/kvzip.ts';
import { none } from './methods/none.ts';
import { random } from './methods/random.ts';
import { streamingLlm } from './methods/streaming-llm.ts';
import { f16 } from './precision/f16.ts';
import { f32 } from './precision/f32.ts';
import { int8 } from './precision/int8.ts';

/** What is built, by the name of the HTTP contract. Being listed here is all it takes. */
export const scoringMethods: ReadonlyMap<string, ScoringMethod> = byName([
  kvzip,
  none,
  random,
  streamingLlm,
  keyNorm,
]);

/** Rules that turn scores into kept pairs, by the name of the HTTP contract. */
export const budgets: ReadonlyMap<string, Budget> = byName([globalBudget, uniformBudget]);

/** Stored element types, by the name of the HTTP contract. */
export const precisions: ReadonlyMap<string, Precision> = byName([f16, f32, int8]);

/** Names of the contract that are not built yet: description by name. */
export const planned: Readonly<
  Record<'methods' | 'budgets' | 'precisions' | 'keepRatios', ReadonlyMap<string, string>>
> = {
  methods: new Map([
    ['kvzip-plus', 'KVzip with attention weighed by what each value adds to the hidden state.'],
    ['kvzap', 'Predicts KVzip+ scores from hidden states, without the reconstruction passes.'],
    ['fast-kvzip', 'A trained gate that predicts KVzip scores while the document is prefilled.'],
    ['expected-attention', 'Attention expected of future queries, from the mean of those seen.'],
    ['snapkv', "Attention of the document's last queries, pooled over neighbours."],
    ['tova', "Attention of the document's last query."],
    ['h2o', 'Attention accumulated over all queries of the prefill.'],
  ]),
  budgets: new Map([
    ['head', 'Whole heads keep all or nothing, chosen once for a model.'],
    ['pyramid', 'Fewer pairs the deeper the layer.'],
  ]),
  precisions: new Map([['int4', 'Half a byte an element, with scales.']]),
  keepRatios: new Map([['auto', 'The smallest ratio that answers as the full cache does.']]),
};

/** @throws ReadonceError `invalid_argument` (unknown), `unsupported` (not built yet) */
export function resolveMethod(name: string): ScoringMethod {
  return resolve({ what: 'method', name, built: scoringMethods, planned: planned.methods });
}

/** @throws ReadonceError `invalid_argument` (unknown), `unsupported` (not built yet) */
export function resolveBudget(name: string): Budget {
  return resolve({ what: 'budget', name, built: budgets, planned: planned.budgets });
}

/** @throws ReadonceError `invalid_argument` (unknown), `unsupported` (not built yet) */
export function resolvePrecision(name: string): Precision {
  return resolve({ what: 'precision', name, built: precisions, planned: planned.precisions });
}

/** What decides a keepRatio: the method, then the caller, then the default. */
export interface KeepRatioRequest {
  readonly method: ScoringMethod;
  /** What the caller asked for; undefined: nothing. */
  readonly requested: number | string | undefined;
  /** (0, 1]: for methods that do not keep all. */
  readonly byDefault: number;
}

/**
 * The fraction of pairs to keep, (0, 1]. A method that keeps all has 1, whatever the default.
 * @throws ReadonceError `invalid_argument` for a number outside (0, 1], an unknown word, or less
 *   than 1 for a method that keeps all; `unsupported` for "auto".
 */
export function resolveKeepRatio({ method, requested, byDefault }: KeepRatioRequest): number {
  if (requested === undefined) return method.keepsAll ? 1 : byDefault;
  if (typeof requested === 'string' && planned.keepRatios.has(requested)) {
    throw notBuilt({ what: 'keepRatio', name: requested, instead: 'a number above 0, at most 1' });
  }
  if (typeof requested === 'string' || !(requested > 0 && requested <= 1)) {
    const got = JSON.stringify(requested);
    throw invalid(`Expected a number above 0 and at most 1 for keepRatio but got ${got}.`);
  }
  if (method.keepsAll && requested < 1) {
    throw invalid(
      `Expected 1 or nothing for keepRatio, since method "${method.name}" keeps every pair, but ` +
        `got ${requested}. Leave it out, or choose a method that compresses.`,
    );
  }
  return requested;
}

function byName<T extends { readonly name: string }>(values: readonly T[]): ReadonlyMap<string, T> {
  return new Map(values.map((value) => [value.name, value]));
}

interface Lookup<T> {
  /** The field of the contract. */
  readonly what: string;
  readonly name: string;
  readonly built: ReadonlyMap<string, T>;
  readonly planned: ReadonlyMap<string, string>;
}

function resolve<T>({ what, name, built, planned }: Lookup<T>): T {
  const found = built.get(name);
  if (found !== undefined) return found;
  const known = `one of ${[...built.keys()].map((key) => JSON.stringify(key)).join(', ')}`;
  if (planned.has(name)) throw notBuilt({ what, name, instead: known });
  throw invalid(`Expected ${known} for ${what} but got ${JSON.stringify(name)}.`);
}

interface NotBuilt {
  readonly what: string;
  readonly name: string;
  readonly instead: string;
}

function notBuilt({ what, name, instead }: NotBuilt): ReadonceError {
  return new ReadonceError(
    'unsupported',
    `Expected ${instead} for ${what} but got ${JSON.stringify(name)}, which is not built yet.`,
  );
}

function invalid(message: string): ReadonceError {
  return new ReadonceError('invalid_argument', message);
}
