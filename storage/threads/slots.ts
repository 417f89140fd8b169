import { assert } from '../../src/core/assert.ts';
import type { SerializedError } from '../../src/core/errors.ts';
import type { HeadRows } from '../context-store.ts';

/** Slots of one thread: it fills some while the one before is being used up. */
const slotCount = 4;

/** Bytes of a slot's keys, and of its values. */
const sideBytes = 512 * 1024;

/**
 * Copies are several times quicker between addresses that are alike to the word. A piece of the
 * store lies at a whole word, its values right behind its keys.
 */
const wordBytes = 8;

/** Numbers of the ring: slots filled and slots used up since its beginning, wrapping around. */
const counters = { filled: 0, used: 1 } as const;
const counterNumbers = 2;

/** Numbers of a slot. */
const fields = { kind: 0, head: 1, firstRow: 2, rows: 3, bytes: 4, valuesAt: 5 } as const;
const slotNumbers = 6;

/** What a slot holds: rows, an error, or word that a job is done. */
const kinds = { rows: 0, failed: 1, done: 2 } as const;

const numbersBytes = Math.ceil((4 * (counterNumbers + slotCount * slotNumbers)) / 64) * 64;

/** Memory of a ring, shared by its two threads. */
export interface SlotMemory {
  readonly ring: SharedArrayBuffer;
  /** Int32, counts what was published in any ring: the taking thread waits for it to change. */
  readonly published: SharedArrayBuffer;
}

/** What a taker finds in a slot. */
export type Filled =
  | { readonly kind: 'rows'; readonly rows: HeadRows }
  | { readonly kind: 'failed'; readonly error: SerializedError }
  | { readonly kind: 'done' };

/** New memory of a ring. */
export function slotMemory(published: SharedArrayBuffer): SlotMemory {
  return { ring: new SharedArrayBuffer(numbersBytes + slotCount * 2 * sideBytes), published };
}

/** What both ends of a ring see. */
class Slots {
  protected readonly numbers: Int32Array;
  protected readonly published: Int32Array;
  readonly #ring: SharedArrayBuffer;

  constructor({ ring, published }: SlotMemory) {
    this.#ring = ring;
    this.numbers = new Int32Array(ring, 0, counterNumbers + slotCount * slotNumbers);
    this.published = new Int32Array(published);
  }

  /** The numbers of the slot that a counter has come to. */
  protected numbersOf(count: number): Int32Array {
    const start = counterNumbers + slotOf(count) * slotNumbers;
    return this.numbers.subarray(start, start + slotNumbers);
  }

  /** Bytes of a slot from `start` on. */
  protected bytesOf(count: number, start: number, bytes: number): Uint8Array {
    const slotStart = numbersBytes + slotOf(count) * 2 * sideBytes;
    return new Uint8Array(this.#ring, slotStart + start, bytes);
  }
}

function slotOf(count: number): number {
  return (count >>> 0) % slotCount;
}

/** The end of a ring that fills slots. */
export class SlotFiller extends Slots {
  /** Rows in the slot that is being filled. */
  #rows = 0;

  /** Rows of `rowBytes` a key that a slot holds. */
  static roomFor(rowBytes: number): number {
    const rows = Math.floor(sideBytes / rowBytes);
    assert(rows >= 1, `expected a slot to hold a row of ${rowBytes} bytes`);
    return rows;
  }

  /** Whether rows of `rowBytes` a key may be added behind others: else each piece has a slot. */
  static canJoin(rowBytes: number): boolean {
    return rowBytes % wordBytes === 0;
  }

  /**
   * Adds rows behind those that the slot has; waits until there is a free one.
   * @param at the head, and where the slot's first row belongs: used for the first rows added
   */
  add(
    at: { readonly head: number; readonly firstRow: number },
    rows: Omit<HeadRows, 'head' | 'firstRow'>,
  ): void {
    const filled = this.#free();
    const numbers = this.numbersOf(filled);
    if (this.#rows === 0) {
      numbers[fields.head] = at.head;
      numbers[fields.firstRow] = at.firstRow;
      numbers[fields.bytes] = 0;
      const canJoin = SlotFiller.canJoin(rows.keys.byteLength / rows.rows);
      numbers[fields.valuesAt] = canJoin ? sideBytes : rows.keys.byteLength;
    }
    const start = numbers[fields.bytes] as number;
    const bytes = rows.keys.byteLength;
    this.bytesOf(filled, start, bytes).set(rows.keys);
    this.bytesOf(filled, (numbers[fields.valuesAt] as number) + start, bytes).set(rows.values);
    numbers[fields.bytes] = start + bytes;
    this.#rows += rows.rows;
  }

  /** Hands over the rows added, if there are any. */
  publishRows(): void {
    if (this.#rows === 0) return;
    this.#publish(kinds.rows, this.#rows);
    this.#rows = 0;
  }

  /** Says that a job failed; rows added and not published are forgotten. */
  publishError(error: SerializedError): void {
    this.#rows = 0;
    const filled = this.#free();
    const text = Buffer.from(JSON.stringify(error));
    this.bytesOf(filled, 0, text.byteLength).set(text);
    this.numbersOf(filled)[fields.bytes] = text.byteLength;
    this.#publish(kinds.failed, 0);
  }

  /** Says that this thread's part of a job is done. */
  publishDone(): void {
    this.#free();
    this.#publish(kinds.done, 0);
  }

  /** The count of a slot that may be written. */
  #free(): number {
    const filled = Atomics.load(this.numbers, counters.filled);
    for (;;) {
      const used = Atomics.load(this.numbers, counters.used);
      if (((filled - used) | 0) < slotCount) return filled;
      Atomics.wait(this.numbers, counters.used, used);
    }
  }

  #publish(kind: number, rows: number): void {
    const filled = Atomics.load(this.numbers, counters.filled);
    const numbers = this.numbersOf(filled);
    numbers[fields.kind] = kind;
    numbers[fields.rows] = rows;
    Atomics.store(this.numbers, counters.filled, (filled + 1) | 0);
    Atomics.add(this.published, 0, 1);
    Atomics.notify(this.published, 0);
  }
}

/** The end of a ring that uses slots up. */
export class SlotTaker extends Slots {
  /** What the oldest filled slot holds: rows are valid until `take`. */
  peek(): Filled | undefined {
    const used = Atomics.load(this.numbers, counters.used);
    if (Atomics.load(this.numbers, counters.filled) === used) return undefined;
    const numbers = this.numbersOf(used);
    const field = (name: keyof typeof fields): number => numbers[fields[name]] as number;
    if (field('kind') === kinds.done) return { kind: 'done' };
    const keys = this.bytesOf(used, 0, field('bytes'));
    if (field('kind') === kinds.failed) {
      const text = Buffer.from(keys).toString();
      return { kind: 'failed', error: JSON.parse(text) as SerializedError };
    }
    const values = this.bytesOf(used, field('valuesAt'), field('bytes'));
    const place = { head: field('head'), firstRow: field('firstRow'), rows: field('rows') };
    return { kind: 'rows', rows: { ...place, keys, values } };
  }

  /** Gives the slot back that was looked at. */
  take(): void {
    Atomics.add(this.numbers, counters.used, 1);
    Atomics.notify(this.numbers, counters.used);
  }
}
