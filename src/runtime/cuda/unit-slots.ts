import { assert, defined } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import type { KvLayout } from '../../core/kv-layout.ts';
import type { DeviceMemory, PinnedMemory } from './device.ts';
import type { KernelGpu } from './gpu.ts';
import type { BlockTable } from './kernel-shapes.ts';
import type { Unit } from './units.ts';

/** Units of a call at most: contexts and tails of 32 slots, or of one long question. */
export const mostUnits = 64;

interface Slot {
  readonly owner: object;
  readonly number: number;
  readonly version: number;
}

/** What tables are for. */
export interface UnitSlotsOptions {
  readonly layout: KvLayout;
  /** Units whose tables are held, `mostUnits` at least: those of all calls of a step. */
  readonly places: number;
  /** Is called before the table as a whole moves: captured graphs have its address. */
  readonly onMove: () => void;
}

const intBytes = Int32Array.BYTES_PER_ELEMENT;
const firstBlocks = 64;

/**
 * The tables of the units that are computed together, `[layers, places · kvHeads, maxBlocks]` on
 * the device. A unit keeps its place from call to call, so that a step copies what has changed: the
 * tables of who joined, and of tails that got another block. Those who join take the places that
 * were not used for longest, so that a question between two steps leaves these theirs.
 */
export class UnitSlots implements Closeable {
  readonly #gpu: KernelGpu;
  readonly #options: UnitSlotsOptions;
  readonly #slots: (Slot | undefined)[];
  /** By place: the call that used it last. */
  readonly #lastCalls: number[];
  #calls = 0;
  #maxBlocks = 0;
  #memory: DeviceMemory | undefined;
  #staging: PinnedMemory | undefined;

  /** @throws ReadonceError `out_of_memory` */
  constructor(gpu: KernelGpu, options: UnitSlotsOptions) {
    const { places } = options;
    assert(places >= mostUnits, `places for ${mostUnits} units`);
    this.#gpu = gpu;
    this.#options = options;
    this.#slots = Array.from({ length: places }, () => undefined);
    this.#lastCalls = Array.from({ length: places }, () => 0);
    this.#grow(firstBlocks);
  }

  /** KV heads of all places. */
  get sequences(): number {
    return this.#slots.length * this.#options.layout.kvHeads;
  }

  get maxBlocks(): number {
    return this.#maxBlocks;
  }

  /** The table of one layer. */
  table(layer: number): BlockTable {
    const memory = defined(this.#memory, 'a table');
    const offset = layer * this.sequences * this.#maxBlocks * intBytes;
    return { address: memory.address + BigInt(offset), maxBlocks: this.#maxBlocks };
  }

  /**
   * Gives each unit a place, and sees to it that its table is there.
   * @returns the places
   * @throws ReadonceError `out_of_memory`; the next call makes all tables again
   */
  place(units: readonly Unit[]): readonly number[] {
    assert(units.length <= mostUnits, `at most ${mostUnits} units but got ${units.length}`);
    const needed = Math.max(...units.map(({ blocks }) => blocks.maxBlocks));
    if (needed > this.#maxBlocks) {
      this.#grow(Math.max(firstBlocks, 2 ** Math.ceil(Math.log2(needed))));
    }
    const places = this.#placesOf(units);
    for (const [i, place] of places.entries()) this.#fill(place, defined(units[i], 'a unit'));
    return places;
  }

  close(): void {
    this.#free();
  }

  #placesOf(units: readonly Unit[]): readonly number[] {
    this.#calls++;
    const known = units.map(({ key }) =>
      this.#slots.findIndex((slot) => slot?.owner === key.owner && slot.number === key.number),
    );
    for (const place of known) if (place !== -1) this.#lastCalls[place] = this.#calls;
    return this.#withNewcomers(known);
  }

  /** Fills in the places of those who have none, -1, in ascending order. */
  #withNewcomers(places: readonly number[]): readonly number[] {
    const count = places.filter((place) => place === -1).length;
    const oldest = Array.from(this.#lastCalls.keys())
      .toSorted((a, b) => (this.#lastCalls[a] as number) - (this.#lastCalls[b] as number))
      .slice(0, count)
      .toSorted((a, b) => b - a);
    for (const place of oldest) this.#lastCalls[place] = this.#calls;
    return places.map((place) => (place === -1 ? defined(oldest.pop(), 'a place') : place));
  }

  #fill(place: number, { key, blocks }: Unit): void {
    const slot = this.#slots[place];
    if (slot?.owner === key.owner && slot.version === blocks.version) {
      this.#slots[place] = { ...key, version: blocks.version };
      return;
    }
    const { layers, kvHeads } = this.#options.layout;
    const unitBytes = layers * kvHeads * this.#maxBlocks * intBytes;
    const staging = defined(this.#staging, 'staging');
    const { buffer, byteOffset } = staging.bytes;
    const target = new Int32Array(buffer, byteOffset + place * unitBytes, unitBytes / intBytes);
    for (let head = 0; head < layers * kvHeads; head++) {
      const row = blocks.table.subarray(head * blocks.maxBlocks, (head + 1) * blocks.maxBlocks);
      target.set(row, head * this.#maxBlocks);
    }
    const rowBytes = kvHeads * this.#maxBlocks * intBytes;
    this.#gpu.stream.copyRowsToDevice({
      target: defined(this.#memory, 'a table').address + BigInt(place * rowBytes),
      targetPitchBytes: this.#slots.length * rowBytes,
      source: staging.part({ offsetBytes: place * unitBytes, sizeBytes: unitBytes }),
      sourcePitchBytes: rowBytes,
      widthBytes: rowBytes,
      rows: layers,
    });
    this.#slots[place] = { ...key, version: blocks.version };
  }

  #grow(maxBlocks: number): void {
    const { device, stream } = this.#gpu;
    stream.synchronize();
    this.#options.onMove();
    this.#free();
    const bytes = this.#options.layout.layers * this.sequences * maxBlocks * intBytes;
    try {
      this.#memory = device.allocate(bytes);
      this.#staging = device.pin(bytes);
    } catch (error) {
      this.#free();
      throw error;
    }
    this.#maxBlocks = maxBlocks;
  }

  /** Without memory there is room for no block, so that the next call asks for it again. */
  #free(): void {
    this.#maxBlocks = 0;
    this.#slots.fill(undefined);
    this.#lastCalls.fill(0);
    this.#memory?.close();
    this.#staging?.close();
    [this.#memory, this.#staging] = [undefined, undefined];
  }
}
