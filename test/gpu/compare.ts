import { createRandom } from '../../src/core/random.ts';
import type { EncodedPairs, Precision } from '../../src/core/precision.ts';
import type { ContextCache, ForwardSlot, Logits, Runtime } from '../../src/runtime/runtime.ts';

/** What the checks of a runtime on a card compare with, and count by. */

const failures: string[] = [];
let passed = 0;

/** What was checked so far. */
export function counts(): { readonly passed: number; readonly failed: number } {
  return { passed, failed: failures.length };
}

/** Tells, and counts, whether something is as it should be. */
export function check(name: string, holds: boolean, detail: string): void {
  process.stdout.write(`${holds ? 'ok  ' : 'FAIL'} ${name}: ${detail}\n`);
  if (holds) passed++;
  else failures.push(name);
}

/** ‖a − b‖ / ‖b‖ */
export function relativeError(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [difference, size] = [0, 0];
  for (let i = 0; i < b.length; i++) {
    const [x, y] = [a[i] as number, b[i] as number];
    difference += (x - y) ** 2;
    size += y ** 2;
  }
  return Math.sqrt(difference / size);
}

/** Keys, then values, as float32. */
export function decoded(pairs: EncodedPairs, precision: Precision, headDim: number): Float32Array {
  const all = new Float32Array(2 * pairs.rows * headDim);
  precision.decode(pairs.keys, all.subarray(0, pairs.rows * headDim), headDim);
  precision.decode(pairs.values, all.subarray(pairs.rows * headDim), headDim);
  return all;
}

/** The same share of rows in each head, ragged by turns. */
export function raggedRows(heads: number, tokens: number, ratio: number): Uint32Array[] {
  const random = createRandom(7);
  return Array.from({ length: heads }, (_, head) => {
    const share = head % 11 === 3 ? 0 : Math.min(1, ratio * (0.2 + 1.6 * random.next()));
    const count = Math.round(share * tokens);
    const rows = Uint32Array.from({ length: tokens }, (_, row) => row);
    for (let i = 0; i < count; i++) {
      const other = i + Math.floor(random.next() * (tokens - i));
      [rows[i], rows[other]] = [rows[other] as number, rows[i] as number];
    }
    return rows.slice(0, count);
  });
}

/** A context of these pairs. */
export function loadContext(
  runtime: Runtime,
  pairs: readonly EncodedPairs[],
  precision: Precision,
): ContextCache {
  const context = runtime.createContext(Uint32Array.from(pairs, ({ rows }) => rows));
  for (const [head, each] of pairs.entries()) context.write(head, 0, each, precision);
  return context;
}

/** A question on a context. */
export interface Asked {
  readonly context: ContextCache;
  readonly ids: Int32Array;
}

/** Answers greedily, all together; the tokens of each, and the logits of its first. */
export function answer(
  runtime: Runtime,
  asked: readonly Asked[],
  { tokens, startPosition }: { tokens: number; startPosition: number },
): { readonly ids: number[][]; readonly first: Float32Array[]; readonly msPerStep: number } {
  const slots = asked.map(({ context, ids }) => ({
    context: context.view(context.lengths),
    tail: runtime.createTail(),
    ids,
    startPosition,
  }));
  const results: number[][] = asked.map(() => []);
  const first: Float32Array[] = [];
  let next: number[] = [];
  for (const slot of slots) {
    for (const logits of runtime.forward([slot])) {
      first.push(logits.values());
      next.push(logits.argmax());
    }
  }
  const startMs = performance.now();
  for (let step = 0; step < tokens; step++) {
    for (const [i, id] of next.entries()) results[i]?.push(id);
    const stepSlots: ForwardSlot[] = slots.map((slot, i) => ({
      context: slot.context,
      tail: slot.tail,
      ids: Int32Array.of(next[i] as number),
      startPosition: startPosition + (asked[i]?.ids.length ?? 0) + step,
    }));
    next = runtime.forward(stepSlots).map((logits: Logits) => logits.argmax());
  }
  const msPerStep = (performance.now() - startMs) / tokens;
  for (const { tail, context } of slots) {
    tail.close();
    context.close();
  }
  return { ids: results, first, msPerStep };
}

/** Share of the tokens of `a` before the first one that differs from `b`'s. */
export function agreement(a: readonly number[][], b: readonly number[][]): number {
  let [same, all] = [0, 0];
  for (const [i, ids] of a.entries()) {
    for (const [j, id] of ids.entries()) {
      all++;
      if (id === b[i]?.[j]) same++;
      else break;
    }
  }
  return same / all;
}
