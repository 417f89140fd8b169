import { open } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { ReadonceError } from '../core/errors.ts';
import type { TensorRef } from './checkpoint.ts';
import {
  convertedLayout,
  readFully,
  verifyConverted,
  writeConverted,
  type ConvertedBytes,
  type ConvertedLayout,
} from './converted-file.ts';
import type { ModelLog } from './log.ts';
import type { SourceTensor } from './source.ts';
import {
  decodeTensor,
  deinterleaveRows,
  roundToHalf,
  rowCount,
  valueCount,
} from './tensor-encodings.ts';

/** Part of every converted file: bump it when the same source would give other values. */
const conversionVersion = '1';

/** What to convert, and where to. */
export interface WeightsOptions {
  readonly tensors: readonly SourceTensor[];
  /** SHA-256 of the source files, hex: the name of the converted file. */
  readonly digest: string;
  readonly cacheFolder: string;
  readonly log: ModelLog | undefined;
}

/**
 * Float32 values of every tensor in files that graphs can map. Float32 safetensors are used as they
 * lie; anything else is converted once into `cacheFolder/weights/DIGEST.safetensors`. That file
 * carries a checksum, which is checked whenever it is opened; a damaged one is made anew. Processes
 * that convert at once do not disturb each other. Memory: about one tensor.
 * @throws ReadonceError `storage_full` if the cache folder's disk is full, `invalid_argument` for
 * values that are not finite
 */
export async function openWeights(
  options: WeightsOptions,
): Promise<ReadonlyMap<string, TensorRef>> {
  const { tensors, digest, cacheFolder, log } = options;
  if (tensors.every(isMappable)) {
    return new Map(tensors.map((tensor) => [tensor.name, pick(tensor)]));
  }
  const file = join(cacheFolder, 'weights', `${digest}.safetensors`);
  const layout = convertedLayout(
    conversionVersion,
    tensors.map(({ name, shape }) => ({ name, type: 'F32', shape })),
  );
  const state = await verifyConverted(file, layout);
  if (state === 'damaged') log?.warn({ file }, 'Converted weights are damaged; converting again');
  if (state !== 'intact') await convert(file, layout, options);
  return new Map(
    layout.tensors.map(({ name, shape, offsetBytes, sizeBytes }) => [
      name,
      { name, shape, file, offsetBytes, sizeBytes },
    ]),
  );
}

function isMappable(tensor: SourceTensor): boolean {
  return (
    tensor.encoding === 'F32' &&
    !tensor.roundToHalf &&
    tensor.interleavedHeads === undefined &&
    tensor.offsetBytes % 4 === 0
  );
}

function pick({ name, shape, file, offsetBytes, sizeBytes }: SourceTensor): TensorRef {
  return { name, shape, file, offsetBytes, sizeBytes };
}

async function convert(
  file: string,
  layout: ConvertedLayout,
  { tensors, log }: WeightsOptions,
): Promise<void> {
  const startMs = performance.now();
  await writeConverted(file, layout, float32Bytes(tensors));
  const durationMs = Math.round(performance.now() - startMs);
  log?.info({ file, sizeBytes: layout.sizeBytes, durationMs }, 'Converted weights to float32');
}

async function* float32Bytes(tensors: readonly SourceTensor[]): ConvertedBytes {
  const largest = Math.max(0, ...tensors.map((tensor) => valueCount(tensor.shape)));
  const valueScratch = new Float32Array(largest);
  for await (const { tensor, bytes } of sourceBytes(tensors)) {
    const values = valueScratch.subarray(0, valueCount(tensor.shape));
    decodeSource(tensor, bytes, values);
    yield new Uint8Array(values.buffer, 0, values.byteLength);
  }
}

/** A tensor's bytes as its file has them, its rows in Hugging Face's order. */
export interface SourceBytes {
  readonly tensor: SourceTensor;
  /** Valid until the next tensor is asked for. */
  readonly bytes: Uint8Array;
}

/** Reads one tensor after another. Memory: the largest of them, twice. */
export async function* sourceBytes(
  tensors: readonly SourceTensor[],
): AsyncGenerator<SourceBytes, void> {
  const scratch = new ArrayBuffer(Math.max(0, ...tensors.map((tensor) => tensor.sizeBytes)));
  const files = new Map<string, FileHandle>();
  try {
    for (const tensor of tensors) {
      const source = files.get(tensor.file) ?? (await open(tensor.file, 'r'));
      files.set(tensor.file, source);
      const bytes = new Uint8Array(scratch, 0, tensor.sizeBytes);
      await readFully(source, bytes, tensor.offsetBytes);
      const { interleavedHeads: heads, shape } = tensor;
      const inOrder =
        heads === undefined ? bytes : deinterleaveRows(bytes, { rows: rowCount(shape), heads });
      yield { tensor, bytes: inOrder };
    }
  } finally {
    for (const source of files.values()) await source.close();
  }
}

function decodeSource(tensor: SourceTensor, bytes: Uint8Array, values: Float32Array): void {
  decodeTensor(tensor.encoding, bytes, values);
  if (tensor.roundToHalf) roundToHalf(values);
  if (!allFinite(values)) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected finite values for ${tensor.name} but got others in ${tensor.file}; it is damaged or its values exceed float16`,
    );
  }
}

function allFinite(values: Float32Array): boolean {
  for (const value of values) {
    if (!Number.isFinite(value)) return false;
  }
  return true;
}
