import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import { allocateFloats } from '../allocate.ts';
import type { Tail } from '../runtime.ts';
import type { OrtEnvironment } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/** Places are made in these steps: more of them than running requests need cost address space. */
const placeStep = 4;

/** Rows of a place to begin with: a question and a short answer. Doubled as needed. */
const firstCapacity = 256;

/** Rows of one layer's keys or values, `[places, kvHeads, capacity, headDim]`. */
interface LayerRows {
  keys: Float32Array;
  values: Float32Array;
}

/** Some neighbouring places as the attention operator takes them, per layer. */
export interface PlaceTensors {
  readonly keys: readonly OrtTensor[];
  readonly values: readonly OrtTensor[];
}

/**
 * Where the tails of running requests lie: side by side in one memory a layer, so that one operator
 * appends to all of them and attends to each. Requests that run together are kept in neighbouring
 * places; a tail that has to move is copied. Memory is address space until rows are written.
 */
export class TailArena {
  readonly #environment: OrtEnvironment;
  readonly #layout: KvLayout;
  /** The tail in each place. */
  readonly #places: (OrtTail | undefined)[] = [];
  readonly #tensors = new Map<string, PlaceTensors>();
  #layers: LayerRows[] = [];
  #capacity = firstCapacity;
  #generation = 0;

  constructor(environment: OrtEnvironment, layout: KvLayout) {
    this.#environment = environment;
    this.#layout = layout;
  }

  /** Rows of a place. */
  get capacity(): number {
    return this.#capacity;
  }

  /** Rises when the memory is replaced: what is bound to the old one must not run. */
  get generation(): number {
    return this.#generation;
  }

  get rowBytes(): number {
    return 2 * headCount(this.#layout) * this.#layout.headDim * Float32Array.BYTES_PER_ELEMENT;
  }

  createTail(): OrtTail {
    return new OrtTail(this);
  }

  /**
   * Gives each tail a place with room for `rows` rows; the places are neighbours.
   * @returns the first place and the tails in order of their places
   * @throws ReadonceError `out_of_memory`
   */
  arrange(tails: readonly OrtTail[], rows: number): Arrangement {
    this.#reserve(rows);
    for (const tail of tails) if (tail.place === undefined) this.#settle(tail);
    const byPlace = tails.toSorted((a, b) => placeOf(a) - placeOf(b));
    const first = placeOf(defined(byPlace[0], 'a tail'));
    const areNeighbours = byPlace.every((tail, i) => placeOf(tail) === first + i);
    if (areNeighbours) return { first, tails: byPlace };
    for (const [place, tail] of byPlace.entries()) {
      if (placeOf(tail) !== place) this.#exchange(tail, place);
    }
    return { first: 0, tails: byPlace };
  }

  /** Places `[first, first + count)` of every layer. */
  tensors(first: number, count: number): PlaceTensors {
    const key = `${first}+${count}`;
    let tensors = this.#tensors.get(key);
    if (tensors === undefined) {
      const { kvHeads, headDim } = this.#layout;
      const placeFloats = kvHeads * this.#capacity * headDim;
      const shape = [count, kvHeads, this.#capacity, headDim];
      const tensor = (rows: Float32Array): OrtTensor =>
        this.#environment.tensor(
          rows.subarray(first * placeFloats, (first + count) * placeFloats),
          shape,
        );
      tensors = {
        keys: this.#layers.map(({ keys }) => tensor(keys)),
        values: this.#layers.map(({ values }) => tensor(values)),
      };
      this.#tensors.set(key, tensors);
    }
    return tensors;
  }

  /** Takes a tail's rows out: `[layers, 2, kvHeads, length, headDim]`. Its place is free again. */
  takeOut(tail: OrtTail): Float32Array {
    const rows = allocateFloats((tail.length * this.rowBytes) / Float32Array.BYTES_PER_ELEMENT);
    let offset = 0;
    this.#eachRun(placeOf(tail), tail.length, (memory, start, end) => {
      rows.set(memory.subarray(start, end), offset);
      offset += end - start;
    });
    this.leave(tail);
    return rows;
  }

  /** Frees a tail's place. */
  leave(tail: OrtTail): void {
    if (tail.place === undefined) return;
    this.#places[tail.place] = undefined;
    tail.place = undefined;
    if (this.#places.every((place) => place === undefined)) this.#release();
  }

  close(): void {
    this.#release();
    this.#places.length = 0;
  }

  /** Long tails leave room behind that few need: nothing is held when nothing runs. */
  #release(): void {
    if (this.#capacity > firstCapacity) this.#replace(0, firstCapacity);
  }

  #settle(tail: OrtTail): void {
    let place = this.#places.indexOf(undefined);
    if (place === -1) {
      place = this.#places.length;
      this.#replace(place + placeStep, this.#capacity);
    }
    this.#places[place] = tail;
    tail.place = place;
    const rows = tail.takeParked();
    if (rows === undefined) return;
    let offset = 0;
    this.#eachRun(place, tail.length, (memory, start, end) => {
      memory.set(rows.subarray(offset, offset + end - start), start);
      offset += end - start;
    });
  }

  /** Moves a tail to a place, and what is there to the tail's. */
  #exchange(tail: OrtTail, place: number): void {
    const other = this.#places[place];
    const parked = other === undefined ? undefined : this.takeOut(other);
    const from = placeOf(tail);
    const shift = (place - from) * this.#placeFloats;
    this.#eachRun(from, tail.length, (memory, start, end) => {
      memory.copyWithin(start + shift, start, end);
    });
    this.#places[from] = undefined;
    this.#places[place] = tail;
    tail.place = place;
    if (other === undefined || parked === undefined) return;
    other.setParked(parked);
    this.#settle(other);
  }

  get #placeFloats(): number {
    return this.#layout.kvHeads * this.#capacity * this.#layout.headDim;
  }

  #reserve(rows: number): void {
    let capacity = this.#capacity;
    while (capacity < rows) capacity *= 2;
    if (capacity > this.#capacity) this.#replace(this.#places.length, capacity);
  }

  /** Other memory, one layer after another; rows of tails are copied. */
  #replace(places: number, capacity: number): void {
    this.#generation++;
    for (const { keys, values } of this.#tensors.values()) {
      for (const tensor of [...keys, ...values]) tensor.close();
    }
    this.#tensors.clear();
    const { layers, kvHeads, headDim } = this.#layout;
    const floats = places * kvHeads * capacity * headDim;
    const copy = (old: Float32Array | undefined): Float32Array => {
      const next = allocateFloats(floats);
      if (old === undefined) return next;
      for (const [place, tail] of this.#places.entries()) {
        if (tail === undefined) continue;
        for (let head = 0; head < kvHeads; head++) {
          const from = (place * kvHeads + head) * this.#capacity * headDim;
          const to = (place * kvHeads + head) * capacity * headDim;
          next.set(old.subarray(from, from + tail.length * headDim), to);
        }
      }
      return next;
    };
    const old = this.#layers;
    this.#layers = Array.from({ length: layers }, (_, layer) => ({
      keys: copy(old[layer]?.keys),
      values: copy(old[layer]?.values),
    }));
    while (this.#places.length < places) this.#places.push(undefined);
    this.#places.length = places;
    this.#capacity = capacity;
  }

  /** The contiguous runs of floats that a tail in a place has, in the order of `takeOut`. */
  #eachRun(
    place: number,
    length: number,
    visit: (memory: Float32Array, start: number, end: number) => void,
  ): void {
    const { kvHeads, headDim } = this.#layout;
    for (const { keys, values } of this.#layers) {
      for (const memory of [keys, values]) {
        for (let head = 0; head < kvHeads; head++) {
          const start = (place * kvHeads + head) * this.#capacity * headDim;
          visit(memory, start, start + length * headDim);
        }
      }
    }
  }
}

/** Tails in neighbouring places. */
export interface Arrangement {
  readonly first: number;
  readonly tails: readonly OrtTail[];
}

/** The pairs of one request's tokens, in a place of the arena or parked outside. */
export class OrtTail implements Tail {
  /** Undefined while it has no rows yet, or is parked. */
  place: number | undefined;
  readonly #arena: TailArena;
  #parked: Float32Array | undefined;
  #length = 0;

  constructor(arena: TailArena) {
    this.#arena = arena;
  }

  get length(): number {
    return this.#length;
  }

  get sizeBytes(): number {
    return this.#length * this.#arena.rowBytes;
  }

  /** Called by the runtime after it appended rows. */
  append(rows: number): void {
    this.#length += rows;
  }

  truncate(length: number): void {
    assert(length >= 0 && length <= this.#length, `cannot truncate the tail to ${length}`);
    if (length < this.#length && this.#parked !== undefined) this.#arena.arrange([this], length);
    this.#length = length;
  }

  park(): void {
    if (this.place === undefined) return;
    this.#parked = this.#arena.takeOut(this);
  }

  /** The rows of a parked tail, which it has no longer. */
  takeParked(): Float32Array | undefined {
    const parked = this.#parked;
    this.#parked = undefined;
    return parked;
  }

  setParked(rows: Float32Array): void {
    this.#parked = rows;
  }

  close(): void {
    this.#arena.leave(this);
    this.#parked = undefined;
    this.#length = 0;
  }
}

function placeOf(tail: OrtTail): number {
  return defined(tail.place, 'the place of a running tail');
}
