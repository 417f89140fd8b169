import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { defined } from '../../src/core/assert.ts';

/** One question of a golden document, answered by transformers at full cache. */
export interface GoldenQuestion {
  readonly query: string;
  /** Query and suffix. */
  readonly queryIds: readonly number[];
  /** The eight tokens with the highest logits after them, best first. */
  readonly topIds: readonly number[];
  readonly topLogits: readonly number[];
  /** The greedy answer, at most 48 tokens, without the end token. */
  readonly answerIds: readonly number[];
  readonly answer: string;
}

export interface GoldenDocument {
  readonly id: string;
  readonly document: string;
  readonly documentIds: readonly number[];
  /** Next-token accuracy of the reconstruction passes. */
  readonly reconstruction: number;
  readonly scores: { readonly file: string; readonly shape: readonly number[] };
  readonly questions: readonly GoldenQuestion[];
}

export interface GoldenModel {
  readonly prefixIds: readonly number[];
  readonly suffixIds: readonly number[];
  readonly documents: readonly GoldenDocument[];
}

const folder = fileURLToPath(new URL('../fixtures/golden/', import.meta.url));

/** What transformers computed for an embedded model; test/fixtures/golden/README.md says how. */
export function readGolden(model: 'reader' | 'reader-mini'): GoldenModel {
  return JSON.parse(readFileSync(`${folder}${model}/golden.json`, 'utf8')) as GoldenModel;
}

export function goldenDocument(golden: GoldenModel, id: string): GoldenDocument {
  return defined(
    golden.documents.find((document) => document.id === id),
    `the golden document ${id}`,
  );
}

/** KVzip scores `[layers · kvHeads, n]`. */
export function goldenScores(
  model: 'reader' | 'reader-mini',
  document: GoldenDocument,
): Float32Array {
  const bytes = readFileSync(`${folder}${model}/${document.scores.file}`);
  return new Float32Array(Uint8Array.from(bytes).buffer);
}
