import type { Piecewise } from '../../core/piecewise.ts';

/**
 * Finite float32 scores in order, by their bits: a signed number that is smaller the higher the
 * score, and the same for equal scores (zeros of both signs are equal).
 */
export function orderOf(bits: number): number {
  if (bits >= 0) return ~bits;
  return bits === negativeZero ? ~0 : bits & 0x7fffffff;
}

const negativeZero = -0x80000000;

/** The bits of scores, as `orderOf` takes them, in the same memory. */
export function bitsOf(scores: Float32Array): Int32Array {
  return new Int32Array(scores.buffer, scores.byteOffset, scores.length);
}

/** Scores looked at in one piece: about three milliseconds. */
export const pieceScores = 2 ** 19;

/** Turned over, so that digits of negative orders come first. */
const signBit = -0x80000000;

/**
 * The digits of an order, the highest first, its sign turned over: counts of one of them fit the
 * nearest cache.
 */
const digits = [
  { shift: 21, mask: 0x7ff },
  { shift: 10, mask: 0x7ff },
  { shift: 0, mask: 0x3ff },
] as const;

type Digit = (typeof digits)[number];

const digitValues = 2 ** 11;

/** Where the best scores end. */
export interface Threshold {
  /** The order of the last of them. */
  readonly order: number;
  /** How many of this order are among them; of the smaller ones all are. */
  readonly ties: number;
}

/**
 * Where the `count` best scores end: their last one's order, found digit by digit.
 * @param count at least 1, at most the scores'
 */
export function* thresholdOf(bits: Int32Array, count: number): Piecewise<Threshold> {
  let found = 0;
  let foundMask = 0;
  let ties = count;
  for (const digit of digits) {
    const counts = new Uint32Array(digitValues);
    for (let start = 0; start < bits.length; start += pieceScores) {
      if (start > 0 || foundMask !== 0) yield;
      const piece = bits.subarray(start, start + pieceScores);
      countDigits(piece, counts, { ...digit, found, foundMask });
    }
    let value = 0;
    while ((counts[value] as number) < ties) ties -= counts[value++] as number;
    found |= value << digit.shift;
    foundMask |= digit.mask << digit.shift;
  }
  return { order: found ^ signBit, ties };
}

/** Counts the values of a digit, among the orders whose higher digits are those that were found. */
function countDigits(
  bits: Int32Array,
  counts: Uint32Array,
  { shift, mask, found, foundMask }: Digit & { readonly found: number; readonly foundMask: number },
): void {
  for (let i = 0; i < bits.length; i++) {
    const order = orderOf(bits[i] as number) ^ signBit;
    if (((order ^ found) & foundMask) !== 0) continue;
    const value = (order >>> shift) & mask;
    counts[value] = (counts[value] as number) + 1;
  }
}

/** Some indices of scores, and their orders. */
interface Ordered {
  /** The sign turned over. */
  readonly orders: Int32Array;
  readonly indices: Uint32Array;
}

/** Memory for sorting as many indices as one call has at most. */
export interface SortMemory {
  readonly from: Ordered;
  readonly to: Ordered;
}

/** Memory for sorting at most that many indices. */
export function sortMemory(length: number): SortMemory {
  const ordered = (): Ordered => ({
    orders: new Int32Array(length),
    indices: new Uint32Array(length),
  });
  return { from: ordered(), to: ordered() };
}

/**
 * Indices by falling score, equal ones in the order in which they were given. A radix sort: three
 * passes, each stable.
 * @returns a part of `memory`, valid until the next call with it
 */
export function bestFirst(bits: Int32Array, indices: Uint32Array, memory: SortMemory): Uint32Array {
  let { from, to } = memory;
  for (let i = 0; i < indices.length; i++) {
    const index = indices[i] as number;
    from.orders[i] = orderOf(bits[index] as number) ^ signBit;
    from.indices[i] = index;
  }
  for (const digit of digits.toReversed()) {
    sortByDigit(from, to, { ...digit, length: indices.length });
    [from, to] = [to, from];
  }
  return from.indices.subarray(0, indices.length);
}

function sortByDigit(
  { orders, indices }: Ordered,
  { orders: sortedOrders, indices: sortedIndices }: Ordered,
  { shift, mask, length }: Digit & { readonly length: number },
): void {
  const ends = new Uint32Array(digitValues + 1);
  for (let i = 0; i < length; i++) {
    const next = (((orders[i] as number) >>> shift) & mask) + 1;
    ends[next] = (ends[next] as number) + 1;
  }
  for (let value = 1; value <= mask; value++) {
    ends[value] = (ends[value] as number) + (ends[value - 1] as number);
  }
  for (let i = 0; i < length; i++) {
    const order = orders[i] as number;
    const value = (order >>> shift) & mask;
    const at = ends[value] as number;
    ends[value] = at + 1;
    sortedOrders[at] = order;
    sortedIndices[at] = indices[i] as number;
  }
}
