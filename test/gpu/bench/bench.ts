import type { PartReport } from '../../../eval/part.ts';
import type { KvLayout } from '../../../src/core/kv-layout.ts';
import type { Precision } from '../../../src/core/precision.ts';
import type { ContextCache, Runtime } from '../../../src/runtime/runtime.ts';
import type { BenchModel } from './shapes.ts';

/** What the card does at best, measured in the same run. */
export interface Rates {
  /** Bytes read and written, each counted, of a copy within the card, a second. */
  readonly copyBytes: number;
  /** Floating-point operations of a float16 matrix product, a second. */
  readonly matrixFlops: number;
  /** Bytes from page-locked host memory to the card, a second. */
  readonly hostBytes: number;
}

/** What parts ask of the card beside the runtime. */
export interface BenchCard {
  freeBytes(): number;
  /** Device memory that contexts of these lengths take of a pool that is empty before. */
  contextBytes(layout: KvLayout, lengths: readonly Uint32Array[]): number;
  /** Fills the rows of a context with random numbers: what is computed must be numbers. */
  fill(context: ContextCache): void;
  /** Runs `work`; milliseconds of device time of each step that it computed. */
  timeSteps(work: () => void): readonly number[];
  /** Waits for all that the runtime has begun. */
  settle(): void;
}

/** What every part measures with. */
export interface Bench {
  readonly model: BenchModel;
  readonly runtime: Runtime;
  readonly card: BenchCard;
  readonly rates: Rates;
  /** Of a document. */
  readonly tokens: number;
  /** What stored contexts are stored in. */
  readonly stored: Precision;
  /** For files that are made and removed. */
  readonly folder: string;
  readonly progress: (text: string) => void;
}

/** Measures one thing and judges it. */
export type BenchPart = (bench: Bench) => Promise<PartReport>;

/** What a figure of the decode and load parts keeps of a document. */
export const keptRatio = 0.3;

/** Tokens of a question. */
export const questionTokens = 24;

/** Template and instructions: rows that are always kept. */
export const prefixTokens = 32;

/** Milliseconds that `work` takes. */
export function timed(work: () => void): number {
  const startMs = performance.now();
  work();
  return performance.now() - startMs;
}

/** Milliseconds of each of some runs. */
export function rounds(count: number, work: () => void): readonly number[] {
  return Array.from({ length: count }, () => timed(work));
}

/** Milliseconds until `work`, which waits for threads in between, is done. */
export async function timedLoad(work: () => Promise<void>): Promise<number> {
  const startMs = performance.now();
  await work();
  return performance.now() - startMs;
}

/** The same of each of some runs. */
export async function loadRounds(
  count: number,
  work: () => Promise<void>,
): Promise<readonly number[]> {
  const times: number[] = [];
  for (let round = 0; round < count; round++) times.push(await timedLoad(work));
  return times;
}
