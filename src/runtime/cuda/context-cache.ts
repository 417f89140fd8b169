import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import type { EncodedPairs, Precision } from '../../core/precision.ts';
import type { ContextCache, ContextView } from '../runtime.ts';
import { blockSize, type BlockPool } from './block-pool.ts';
import type { KernelGpu } from './gpu.ts';
import type { LoadTarget, RowTransfer } from './row-transfer.ts';

/** What contexts and tails of a model share. */
export interface CachesOptions {
  readonly gpu: KernelGpu;
  readonly layout: KvLayout;
  readonly blocks: BlockPool;
  readonly transfer: RowTransfer;
}

/** Blocks of every head, as kernels look them up: `[heads, maxBlocks]`. */
export interface HeadBlocks {
  readonly table: Int32Array;
  readonly maxBlocks: number;
  /** Another one after each change. */
  readonly version: number;
}

let versions = 0;

/** A version that no table has had. */
export function nextVersion(): number {
  return ++versions;
}

/** A loaded context in blocks of device memory. */
export class CudaContextCache implements ContextCache {
  readonly #options: CachesOptions;
  readonly #views = new Set<CudaContextView>();
  #lengths: Uint32Array;
  #blocks: HeadBlocks;
  #open = true;

  /** @throws ReadonceError `out_of_memory` */
  constructor(options: CachesOptions, lengths: Uint32Array) {
    assert(lengths.length === headCount(options.layout), 'a length for every head');
    this.#options = options;
    this.#lengths = new Uint32Array(lengths.length);
    this.#blocks = { table: new Int32Array(0), maxBlocks: 0, version: nextVersion() };
    this.#reshape(lengths);
  }

  get lengths(): Uint32Array {
    return this.#lengths;
  }

  get sizeBytes(): number {
    return blockCount(this.#lengths) * this.#options.blocks.blockBytes;
  }

  get blocks(): HeadBlocks {
    return this.#blocks;
  }

  /** Where loaded rows go. */
  get target(): LoadTarget {
    return { pool: this.#options.blocks.pool, ...this.#blocks };
  }

  write(head: number, firstRow: number, pairs: EncodedPairs, precision: Precision): void {
    assert(firstRow + pairs.rows <= (this.#lengths[head] ?? 0), 'the rows are there');
    const at = { sequence: head, firstRow };
    this.#options.transfer.load(this.target, at, { pairs, precision });
  }

  copyFrom(other: ContextCache): void {
    assert(other instanceof CudaContextCache, 'a context of this runtime');
    assert(
      other.#lengths.every((rows, head) => rows <= (this.#lengths[head] as number)),
      'expected no more rows than there is room for',
    );
    const { gpu, blocks, transfer } = this.#options;
    transfer.finish(other.#blocks.table);
    // Few calls of the driver, since most blocks are taken in a row.
    let run:
      { readonly source: number; readonly target: number; readonly count: number } | undefined;
    for (const [head, rows] of other.#lengths.entries()) {
      for (let index = 0; index < blocksOf(rows); index++) {
        const source = blockAt(other.#blocks, head, index);
        const target = blockAt(this.#blocks, head, index);
        const { count = 0 } = run ?? {};
        if (run?.source === source - count && run.target === target - count) {
          run = { source: run.source, target: run.target, count: count + 1 };
          continue;
        }
        if (run !== undefined) blocks.copy(gpu.stream, run);
        run = { source, target, count: 1 };
      }
    }
    if (run !== undefined) blocks.copy(gpu.stream, run);
  }

  view(lengths: Uint32Array): ContextView {
    assert(
      lengths.length === this.#lengths.length &&
        lengths.every((length, head) => length <= (this.#lengths[head] as number)),
      'expected at most the rows that are held',
    );
    this.#options.transfer.finish(this.#blocks.table);
    const view = new CudaContextView(this, lengths, () => this.#views.delete(view));
    this.#views.add(view);
    return view;
  }

  resize(lengths: Uint32Array): void {
    assert(lengths.length === this.#lengths.length, 'a length for every head');
    assert(this.#views.size === 0, 'expected no open view');
    this.#options.transfer.finish(this.#blocks.table);
    this.#reshape(lengths);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const view of this.#views) view.close();
    this.#options.transfer.drop(this.#blocks.table);
    this.#options.blocks.give(this.#heldBlocks());
  }

  /** Takes and gives back blocks at the ends of the heads; those that stay are where they were. */
  #reshape(lengths: Uint32Array): void {
    const { blocks } = this.#options;
    const old = this.#blocks;
    const kept = this.#lengths.map((rows, head) =>
      Math.min(blocksOf(rows), blocksOf(lengths[head] as number)),
    );
    const missing = sum(lengths.map((rows, head) => blocksOf(rows) - (kept[head] as number)));
    const taken = blocks.take(missing);
    const maxBlocks = Math.max(1, ...Array.from(lengths, blocksOf));
    const table = new Int32Array(lengths.length * maxBlocks);
    const given: number[] = [];
    let next = 0;
    for (const [head, rows] of lengths.entries()) {
      const stay = kept[head] as number;
      const row = table.subarray(head * maxBlocks, (head + 1) * maxBlocks);
      for (let index = 0; index < stay; index++) row[index] = blockAt(old, head, index);
      for (let index = stay; index < blocksOf(rows); index++) row[index] = taken[next++] as number;
      for (let index = stay; index < blocksOf(this.#lengths[head] as number); index++) {
        given.push(blockAt(old, head, index));
      }
    }
    blocks.give(given);
    this.#lengths = lengths.slice();
    this.#blocks = { table, maxBlocks, version: nextVersion() };
  }

  *#heldBlocks(): Generator<number> {
    for (const [head, rows] of this.#lengths.entries()) {
      for (let index = 0; index < blocksOf(rows); index++) {
        yield blockAt(this.#blocks, head, index);
      }
    }
  }
}

/** The first rows of each head. */
export class CudaContextView implements ContextView {
  readonly lengths: Uint32Array;
  readonly cache: CudaContextCache;
  readonly #onClose: () => void;

  constructor(cache: CudaContextCache, lengths: Uint32Array, onClose: () => void) {
    this.cache = cache;
    this.lengths = lengths.slice();
    this.#onClose = onClose;
  }

  close(): void {
    this.#onClose();
  }
}

/** Blocks that rows need. */
export function blocksOf(rows: number): number {
  return Math.ceil(rows / blockSize);
}

function blockCount(lengths: Uint32Array): number {
  return sum(lengths.map(blocksOf));
}

function sum(values: Uint32Array): number {
  return values.reduce((total, value) => total + value, 0);
}

function blockAt({ table, maxBlocks }: HeadBlocks, head: number, index: number): number {
  return defined(table[head * maxBlocks + index], 'a block of the head');
}
