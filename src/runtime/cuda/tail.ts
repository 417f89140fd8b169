import { assert } from '../../core/assert.ts';
import { headCount } from '../../core/kv-layout.ts';
import type { Tail } from '../runtime.ts';
import { blocksOf, nextVersion, type CachesOptions, type HeadBlocks } from './context-cache.ts';

/** A request's own pairs in blocks of device memory: as many rows in every head. */
export class CudaTail implements Tail {
  readonly #options: CachesOptions;
  readonly #heads: number;
  /** Blocks of each head, by index of the block: `[index][head]`. */
  readonly #taken: Int32Array[] = [];
  #blocks: HeadBlocks | undefined;
  #length = 0;

  constructor(options: CachesOptions) {
    this.#options = options;
    this.#heads = headCount(options.layout);
  }

  get length(): number {
    return this.#length;
  }

  get sizeBytes(): number {
    return this.#taken.length * this.#heads * this.#options.blocks.blockBytes;
  }

  get blocks(): HeadBlocks {
    this.#blocks ??= this.#table();
    return this.#blocks;
  }

  /**
   * Takes what more rows need.
   * @throws ReadonceError `out_of_memory`
   */
  reserve(rows: number): void {
    while (this.#taken.length < blocksOf(this.#length + rows)) {
      this.#taken.push(this.#options.blocks.take(this.#heads));
      this.#blocks = undefined;
    }
  }

  append(rows: number): void {
    assert(blocksOf(this.#length + rows) <= this.#taken.length, 'the rows were reserved');
    this.#length += rows;
  }

  truncate(length: number): void {
    assert(length <= this.#length, 'only rows that are there are forgotten');
    this.#length = length;
    this.#giveBackFrom(blocksOf(length));
  }

  /** Rows stay where they are: a tail has no place among the running ones. */
  park(): void {
    this.#giveBackFrom(blocksOf(this.#length));
  }

  close(): void {
    this.#length = 0;
    this.#giveBackFrom(0);
  }

  #giveBackFrom(index: number): void {
    for (const blocks of this.#taken.splice(index)) {
      this.#options.blocks.give(blocks);
      this.#blocks = undefined;
    }
  }

  #table(): HeadBlocks {
    const maxBlocks = Math.max(1, this.#taken.length);
    const table = new Int32Array(this.#heads * maxBlocks);
    for (const [index, blocks] of this.#taken.entries()) {
      for (const [head, block] of blocks.entries()) table[head * maxBlocks + index] = block;
    }
    return { table, maxBlocks, version: nextVersion() };
  }
}
