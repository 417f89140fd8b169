import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { floatToHalf } from '../../../src/core/half.ts';
import { createRandom } from '../../../src/core/random.ts';
import type { GraphSource } from '../../../src/graph/decoder-blocks.ts';
import type { TensorRef } from '../../../src/model/checkpoint.ts';
import type { ModelConfig } from '../../../src/model/config.ts';
import { llama } from '../../../src/model/families/llama.ts';
import { normal } from '../numbers.ts';
import { elementBytes } from './shapes.ts';

/** Bytes of random numbers that a file repeats. */
const blockBytes = 64 * 1024 * 1024;

/** Tensors begin this far apart in the block, so that no two of a layer are alike. */
const strideBytes = 5 * 1024 * 1024 + 4096;

/** What transformers begins training with. */
const weightDeviation = 0.02;

/** Normally distributed float16 numbers, drawn from 65,536 of them. */
export function randomHalves(count: number, deviation: number): Uint16Array {
  const random = createRandom(11);
  const drawn = Uint16Array.from({ length: 65_536 }, () => floatToHalf(deviation * normal(random)));
  const halves = new Uint16Array(count);
  for (let i = 0; i < count; i += 2) {
    const word = random.nextUint32();
    halves[i] = drawn[word & 0xffff] as number;
    if (i + 1 < count) halves[i + 1] = drawn[word >>> 16] as number;
  }
  return halves;
}

/**
 * A model of random float16 weights: norms are ones, the rest N(0, 0.02), as at the beginning of a
 * training, so that activations stay of a size that float16 holds. All tensors lie in one file,
 * over one another, which is little larger than the largest.
 */
export function randomSource(folder: string, config: ModelConfig): GraphSource {
  const shapes = [...llama.tensorShapes(config)];
  const largest = Math.max(...shapes.map(([, shape]) => bytesOf(shape)));
  const onesAt = Math.ceil((largest + blockBytes) / 4096) * 4096;
  const file = join(folder, 'random-weights.bin');
  writeNumbers(file, { randomBytes: onesAt, ones: config.hiddenSize });
  const tensors = shapes.map(([name, shape], i): [string, TensorRef] => {
    const isNorm = name.endsWith('norm.weight');
    const offsetBytes = isNorm ? onesAt : (i * strideBytes) % blockBytes;
    const sizeBytes = bytesOf(shape);
    return [name, { name, shape, file, offsetBytes, sizeBytes, type: 'float16' }];
  });
  return { config, tensors: new Map(tensors) };
}

function writeNumbers(
  file: string,
  { randomBytes, ones }: { readonly randomBytes: number; readonly ones: number },
): void {
  const block = new Uint8Array(randomHalves(blockBytes / elementBytes, weightDeviation).buffer);
  const descriptor = openSync(file, 'w');
  try {
    for (let at = 0; at < randomBytes; at += blockBytes) {
      const length = Math.min(blockBytes, randomBytes - at);
      const written = writeSync(descriptor, block, 0, length, at);
      if (written !== length) throw new Error(`Expected room for ${length} bytes in ${file}`);
    }
    const one = floatToHalf(1);
    writeSync(descriptor, new Uint16Array(ones).fill(one), 0, ones * elementBytes, randomBytes);
  } finally {
    closeSync(descriptor);
  }
}

function bytesOf(shape: readonly number[]): number {
  return shape.reduce((product, length) => product * length, elementBytes);
}
