import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defined } from '../../src/core/assert.ts';
import { floatToHalf } from '../../src/core/half.ts';
import type { TensorRef } from '../../src/model/checkpoint.ts';
import { openFourBitWeights } from '../../src/model/four-bit-weights.ts';
import type { SourceTensor } from '../../src/model/source.ts';
import { openWeights } from '../../src/model/weights.ts';
import { randomModel, type TinyModel, type TinyModelOptions } from './tiny-model.ts';

const blockValues = 32;

/** Values of any matrix whose rows are whole blocks, rounded to Q4_1. */
export function quantizeQ41(values: Float32Array): Uint8Array {
  const blocks = Array.from({ length: values.length / blockValues }, (_, block) =>
    quantizeBlock(values.subarray(block * blockValues, (block + 1) * blockValues)),
  );
  return Buffer.concat(blocks);
}

function quantizeBlock(values: Float32Array): Buffer {
  const bytes = Buffer.alloc(20);
  const minimum = Math.min(...values);
  const scale = (Math.max(...values) - minimum) / 15;
  bytes.writeUInt16LE(floatToHalf(scale), 0);
  bytes.writeUInt16LE(floatToHalf(minimum), 2);
  const number = (i: number): number =>
    scale === 0 ? 0 : Math.round(((values[i] ?? NaN) - minimum) / scale);
  for (let i = 0; i < 16; i++) bytes.writeUInt8(number(i) | (number(i + 16) << 4), 4 + i);
  return bytes;
}

/**
 * A random model whose matrices were rounded to Q4_1 where their rows are whole blocks: the float32
 * values are those of the blocks, so that both are one model.
 */
export async function fourBitModel(folder: string, options: TinyModelOptions): Promise<TinyModel> {
  const { config, tensors } = randomModel(folder, options);
  const sources = asQ41(folder, [...tensors.values()]);
  mkdirSync(join(folder, 'cache'));
  const weights = {
    tensors: sources,
    digest: 'random',
    cacheFolder: join(folder, 'cache'),
    log: undefined,
  };
  return {
    config,
    tensors: await openWeights(weights),
    fourBit: await openFourBitWeights(weights),
  };
}

function asQ41(folder: string, refs: readonly TensorRef[]): readonly SourceTensor[] {
  const file = join(folder, 'blocks');
  const pieces: Uint8Array[] = [];
  let end = 0;
  const sources = refs.map(({ name, shape, ...ref }): SourceTensor => {
    const plain = { name, shape, interleavedHeads: undefined, roundToHalf: false };
    const isMatrix =
      name.endsWith('_proj.weight') && defined(shape[1], 'columns') % blockValues === 0;
    if (!isMatrix) return { ...plain, ...ref, encoding: 'F32' };
    const bytes = quantizeQ41(valuesAt(ref));
    pieces.push(bytes);
    const offsetBytes = end;
    end += bytes.byteLength;
    return { ...plain, file, offsetBytes, sizeBytes: bytes.byteLength, encoding: 'Q4_1' };
  });
  writeFileSync(file, Buffer.concat(pieces));
  return sources;
}

function valuesAt(ref: Pick<TensorRef, 'file' | 'offsetBytes' | 'sizeBytes'>): Float32Array {
  const { file, offsetBytes, sizeBytes } = ref;
  const bytes = readFileSync(file).subarray(offsetBytes, offsetBytes + sizeBytes);
  return new Float32Array(Uint8Array.from(bytes).buffer);
}
