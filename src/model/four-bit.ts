import { assert } from '../core/assert.ts';
import { halfToFloat } from '../core/half.ts';

/** Values that share a scale, and bytes of their numbers. */
export const fourBitBlock = { values: 32, codeBytes: 16 } as const;

/** Bytes of a Q4_1 block of GGUF: f16 scale, f16 minimum, numbers. */
const sourceBlockBytes = 20;

/**
 * A matrix of Q4_1 blocks, `[rows, blocks]` of them, taken apart. With the numbers q of a block, a
 * value is `scale · (q − 8) + shift`.
 */
export interface FourBitMatrix {
  /** `[rows, blocks, 16]`, two numbers a byte: the 2j-th in the low half, the next in the high. */
  readonly codes: Uint8Array;
  /** `[rows, blocks]` */
  readonly scales: Float32Array;
  /** `[rows, blocks]` */
  readonly shifts: Float32Array;
}

/** A matrix with room for this many blocks. */
export function fourBitMatrix(blocks: number): FourBitMatrix {
  return {
    codes: new Uint8Array(blocks * fourBitBlock.codeBytes),
    scales: new Float32Array(blocks),
    shifts: new Float32Array(blocks),
  };
}

/** Blocks in Q4_1's bytes. */
export function blocksIn(bytes: Uint8Array): number {
  assert(bytes.byteLength % sourceBlockBytes === 0, 'whole blocks');
  return bytes.byteLength / sourceBlockBytes;
}

/**
 * Takes Q4_1's bytes apart into `target`, from its block `first` on. Nothing is rounded but the
 * shift, the minimum and eight scales, to float32.
 */
export function takeApart(bytes: Uint8Array, target: FourBitMatrix, first: number): void {
  const half = (at: number): number =>
    halfToFloat((bytes[at] as number) | ((bytes[at + 1] as number) << 8));
  const { codes, scales, shifts } = target;
  const blocks = blocksIn(bytes);
  assert((first + blocks) * fourBitBlock.codeBytes <= codes.byteLength, 'room for the blocks');
  for (let block = 0; block < blocks; block++) {
    const from = block * sourceBlockBytes;
    const scale = half(from);
    scales[first + block] = scale;
    shifts[first + block] = half(from + 2) + 8 * scale;
    const numbers = from + 4;
    const to = (first + block) * fourBitBlock.codeBytes;
    // GGUF has the first 16 numbers in the low halves and the others in the high ones.
    for (let i = 0; i < fourBitBlock.codeBytes; i++) {
      const pair = 2 * (i % (fourBitBlock.codeBytes / 2));
      const shift = i < fourBitBlock.codeBytes / 2 ? 0 : 4;
      const low = ((bytes[numbers + pair] as number) >> shift) & 15;
      const high = ((bytes[numbers + pair + 1] as number) >> shift) & 15;
      codes[to + i] = low | (high << 4);
    }
  }
}
