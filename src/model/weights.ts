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
  type TensorEncoding,
} from './tensor-encodings.ts';

/** Part of every converted file: bump it when the same source would give other values. */
const conversionVersion = '1';

/** What to convert, and where to. */
export interface WeightsOptions {
  readonly tensors: readonly SourceTensor[];
  /** SHA-256 of the source files, hex: the name of the converted file. */
  readonly digest: string;
  readonly cacheFolder: string;
  /** Whether float16 and bfloat16 may stay as they are. Default: no. */
  readonly keepHalf?: boolean | undefined;
  readonly log: ModelLog | undefined;
}

/**
 * The values of every tensor in files that graphs can map. Float32 safetensors are used as they
 * lie, 16-bit ones too if `keepHalf`; anything else is converted to float32 once, into
 * `cacheFolder/weights/DIGEST.safetensors`. That file carries a checksum, which is checked whenever
 * it is opened; a damaged one is made anew. Processes that convert at once do not disturb each
 * other. Memory: about one tensor.
 * @throws ReadonceError `storage_full` if the cache folder's disk is full, `invalid_argument` for
 * values that are not finite
 */
export async function openWeights(
  options: WeightsOptions,
): Promise<ReadonlyMap<string, TensorRef>> {
  const { tensors, digest, cacheFolder, keepHalf = false, log } = options;
  const types: MappableTypes = keepHalf ? anyFloat : onlyFloat32;
  if (tensors.every((tensor) => isMappable(tensor, types))) {
    return new Map(tensors.map((tensor) => [tensor.name, pick(tensor, types)]));
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

/** Encodings that graphs may map, and their element types. */
type MappableTypes = Readonly<Partial<Record<TensorEncoding, NonNullable<TensorRef['type']>>>>;

const onlyFloat32: MappableTypes = { F32: 'float32' };
const anyFloat: MappableTypes = { ...onlyFloat32, F16: 'float16', BF16: 'bfloat16' };

function isMappable(tensor: SourceTensor, types: MappableTypes): boolean {
  return (
    types[tensor.encoding] !== undefined &&
    !tensor.roundToHalf &&
    tensor.interleavedHeads === undefined &&
    tensor.offsetBytes % 4 === 0
  );
}

function pick(tensor: SourceTensor, types: MappableTypes): TensorRef {
  const { name, shape, file, offsetBytes, sizeBytes, encoding } = tensor;
  return { name, shape, file, offsetBytes, sizeBytes, type: types[encoding] };
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
