import type { Random } from '../../src/core/random.ts';
import {
  modelTypeOf,
  type AttendRows,
  type HeadDim,
  type PoolFormat,
  type StagedFormat,
} from '../../src/runtime/cuda/kernel-shapes.ts';
import {
  asChannelBytes,
  asHalf,
  asInt8,
  randomNumbers,
  randomRow,
  type StoredRow,
} from './numbers.ts';

/** What differs from case to case; `staged` is left out where no kernel loads the format. */
export interface StepFormats {
  readonly format: PoolFormat;
  readonly staged?: StagedFormat;
  readonly headDim: HeadDim;
  /** The variant of attend. */
  readonly rows: AttendRows;
}

export const kvHeads = 2;
export const group = 3;
export const queryCount = 4;
export const queryHeads = kvHeads * group;

/** Two contexts of two queries each, and tails: of one query, of one, and of two tokens. */
export const units = [
  { first: 0, count: 2, causal: 0, added: 0, before: [130, 0] },
  { first: 2, count: 2, causal: 0, added: 0, before: [5, 65] },
  { first: 0, count: 1, causal: 1, added: 1, before: [3, 3] },
  { first: 1, count: 1, causal: 1, added: 1, before: [0, 0] },
  { first: 2, count: 2, causal: 1, added: 2, before: [17, 16] },
] as const;

/** Each new token's unit and its row from the unit's end; the last is padding. */
export const tokens = [
  [2, 1],
  [3, 1],
  [4, 2],
  [4, 1],
  [-1, 0],
] as const;

const lengthsBefore: readonly number[] = units.flatMap(({ before }) => [...before]);
export const lengthsAfter: readonly number[] = units.flatMap(({ before, added }) =>
  before.map((length) => length + added),
);

/** Numbers of a step: what lies in memory before it, and what comes with it. */
export interface StepCase extends StepFormats {
  /** The stored rows of each sequence, before the step. */
  readonly stored: readonly { readonly keys: StoredRow[]; readonly values: StoredRow[] }[];
  /** f32 `[sequences, headDim]`, for `i8c`. */
  readonly keyScales: Float32Array;
  readonly valueScales: Float32Array;
  /** `[tokens, kvHeads, headDim]`. */
  readonly newKeys: ReturnType<typeof randomNumbers>;
  readonly newValues: ReturnType<typeof randomNumbers>;
  /** `[queries, queryHeads, headDim]`. */
  readonly queries: ReturnType<typeof randomNumbers>;
}

export function makeCase(random: Random, formats: StepFormats): StepCase {
  const { format, headDim } = formats;
  const type = modelTypeOf(format);
  const scales = (): Float32Array =>
    Float32Array.from({ length: lengthsBefore.length * headDim }, () => 0.01 + random.next() / 50);
  const [keyScales, valueScales] = [scales(), scales()];
  const rows = (sequence: number, count: number, of: Float32Array): StoredRow[] =>
    Array.from({ length: count }, () => {
      if (formats.staged !== undefined) {
        const { bytes, values } = randomRow(random, formats.staged, headDim);
        return { bytes, values: format === 'f16' ? values.map(asHalf) : values };
      }
      const row = of.subarray(sequence * headDim, (sequence + 1) * headDim);
      const bytes = Int8Array.from(row, () => Math.floor(random.next() * 255) - 127);
      const values = Float64Array.from(bytes, (x, i) => x * (row[i] ?? 0));
      return { bytes: new Uint8Array(bytes.buffer), values };
    });
  const newCount = tokens.length * kvHeads * headDim;
  return {
    ...formats,
    keyScales,
    valueScales,
    stored: lengthsBefore.map((count, sequence) => ({
      keys: rows(sequence, count, keyScales),
      values: rows(sequence, count, valueScales),
    })),
    newKeys: randomNumbers(random, type, newCount),
    newValues: randomNumbers(random, type, newCount),
    queries: randomNumbers(random, type, queryCount * queryHeads * headDim),
  };
}

/** A sequence's rows after the step, as the pool has them. */
export function rowsAfter(
  step: StepCase,
  sequence: number,
  part: 'keys' | 'values',
): Float64Array[] {
  const { headDim, format } = step;
  const [unit, head] = [Math.floor(sequence / kvHeads), sequence % kvHeads];
  const scales = part === 'keys' ? step.keyScales : step.valueScales;
  const added = tokens.flatMap(([tokenUnit, back], i) => {
    if (tokenUnit !== unit) return [];
    const numbers = (part === 'keys' ? step.newKeys : step.newValues).values;
    const start = (i * kvHeads + head) * headDim;
    return [{ back, row: numbers.subarray(start, start + headDim) }];
  });
  const inOrder = added
    .sort((a, b) => b.back - a.back)
    .map(({ row }) => {
      if (format === 'i8r') return asInt8(row);
      if (format !== 'i8c') return row;
      return asChannelBytes(row, scales.subarray(sequence * headDim, (sequence + 1) * headDim));
    });
  return [...(step.stored[sequence]?.[part] ?? []).map(({ values }) => values), ...inOrder];
}

/** The step's results in float64, `[queries, queryHeads, headDim]`. */
export function expectedOutput(step: StepCase): Float64Array {
  const { headDim } = step;
  const out = new Float64Array(queryCount * queryHeads * headDim);
  for (let query = 0; query < queryCount; query++) {
    for (let head = 0; head < queryHeads; head++) {
      const start = (query * queryHeads + head) * headDim;
      const q = step.queries.values.subarray(start, start + headDim);
      const seen = units.flatMap(({ first, count, causal }, unit) => {
        if (query < first || query >= first + count) return [];
        const sequence = unit * kvHeads + Math.floor(head / group);
        const keys = rowsAfter(step, sequence, 'keys');
        const values = rowsAfter(step, sequence, 'values');
        const visible = keys.length - (causal === 1 ? count - 1 - (query - first) : 0);
        return keys.slice(0, visible).map((key, i) => ({ key, value: values[i] ?? key }));
      });
      attend(q, seen, out.subarray(start, start + headDim));
    }
  }
  return out;
}

function attend(
  query: Float64Array,
  pairs: readonly { readonly key: Float64Array; readonly value: Float64Array }[],
  out: Float64Array,
): void {
  const logits = pairs.map(({ key }) => dot(query, key) / Math.sqrt(query.length));
  const largest = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp(logit - largest));
  const sum = weights.reduce((a, b) => a + b, 0);
  for (const [i, { value }] of pairs.entries()) {
    for (const [c, x] of value.entries()) out[c] = (out[c] ?? 0) + (x * (weights[i] ?? 0)) / sum;
  }
}

export function dot(a: Float64Array, b: Float64Array): number {
  return a.reduce((sum, x, i) => sum + x * (b[i] ?? NaN), 0);
}
