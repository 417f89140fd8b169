import { join } from 'node:path';
import { assert, defined } from '../core/assert.ts';
import type { FourBitLinear, TensorRef } from './checkpoint.ts';
import {
  convertedLayout,
  verifyConverted,
  writeConverted,
  type ConvertedBytes,
  type ConvertedTensor,
} from './converted-file.ts';
import {
  blocksIn,
  fourBitBlock,
  fourBitMatrix,
  takeApart,
  type FourBitMatrix,
} from './four-bit.ts';
import type { SourceTensor } from './source.ts';
import { rowCount } from './tensor-encodings.ts';
import { sourceBytes, type WeightsOptions } from './weights.ts';

/** Part of every file: bump it when the same source would give other bytes. */
const conversionVersion = 'q4-1';

/** Matrices of a layer that multiply the same input: they become one. */
const together: readonly (readonly string[])[] = [
  ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  ['self_attn.o_proj'],
  ['mlp.gate_proj', 'mlp.up_proj'],
  ['mlp.down_proj'],
];

/** Matrices that become one. */
interface Group {
  readonly name: string;
  readonly members: readonly SourceTensor[];
  readonly rows: number;
  readonly columns: number;
}

/** The name by which a graph finds matrices, given theirs without `.weight`. */
export function fourBitName(names: readonly string[]): string {
  return names.join('+');
}

/**
 * The Q4_1 matrices of a checkpoint's layers, in the layout that four-bit products take, from
 * `cacheFolder/weights/DIGEST.q4.safetensors`; it is made on the first call, checked on others, and
 * made anew if it is damaged. Matrices that multiply one input are joined, and left out unless all
 * of them are Q4_1. Empty, without any file, for a checkpoint that has none.
 * @returns by `fourBitName`
 * @throws ReadonceError `storage_full` if the cache folder's disk is full
 */
export async function openFourBitWeights(
  options: WeightsOptions,
): Promise<ReadonlyMap<string, FourBitLinear>> {
  const { tensors, digest, cacheFolder, log } = options;
  const groups = findGroups(tensors);
  if (groups.length === 0) return new Map();
  const file = join(cacheFolder, 'weights', `${digest}.q4.safetensors`);
  const layout = convertedLayout(conversionVersion, groups.flatMap(partsOf));
  const state = await verifyConverted(file, layout);
  if (state === 'damaged') log?.warn({ file }, 'Four-bit weights are damaged; converting again');
  if (state !== 'intact') {
    const startMs = performance.now();
    await writeConverted(file, layout, groupBytes(groups));
    const durationMs = Math.round(performance.now() - startMs);
    log?.info({ file, sizeBytes: layout.sizeBytes, durationMs }, 'Converted weights to four bits');
  }
  const placed = new Map(layout.tensors.map((tensor) => [tensor.name, tensor]));
  return new Map(groups.map((group) => [group.name, refsOf(group, file, placed)]));
}

function findGroups(tensors: readonly SourceTensor[]): readonly Group[] {
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const layers = tensors.flatMap(
    ({ name }) => /^(.*)self_attn\.q_proj\.weight$/.exec(name)?.[1] ?? [],
  );
  return layers.flatMap((layer) =>
    together.flatMap((linears) => {
      const names = linears.map((linear) => layer + linear);
      const members = names.map((name) => defined(byName.get(`${name}.weight`), name));
      if (!members.every(({ encoding }) => encoding === 'Q4_1')) return [];
      const columns = defined(members[0]?.shape[1], 'columns');
      assert(
        members.every(({ shape }) => shape[1] === columns),
        'members multiply one input',
      );
      const rows = members.reduce((sum, { shape }) => sum + rowCount(shape), 0);
      return [{ name: fourBitName(names), members, rows, columns }];
    }),
  );
}

function partsOf({
  name,
  rows,
  columns,
}: Group): readonly Pick<ConvertedTensor, 'name' | 'type' | 'shape'>[] {
  const blocks = columns / fourBitBlock.values;
  return [
    { name: `${name}.codes`, type: 'U8', shape: [rows, blocks, fourBitBlock.codeBytes] },
    { name: `${name}.scales`, type: 'F32', shape: [rows, blocks] },
    { name: `${name}.shifts`, type: 'F32', shape: [rows, blocks] },
  ];
}

async function* groupBytes(groups: readonly Group[]): ConvertedBytes {
  const source = sourceBytes(groups.flatMap(({ members }) => members));
  try {
    for (const { members, rows, columns } of groups) {
      const matrix = fourBitMatrix((rows * columns) / fourBitBlock.values);
      let first = 0;
      for (const member of members) {
        const next = await source.next();
        assert(next.done !== true && next.value.tensor === member, 'tensors come in order');
        takeApart(next.value.bytes, matrix, first);
        first += blocksIn(next.value.bytes);
      }
      yield* bytesOf(matrix);
    }
  } finally {
    // Closes the files it reads: nobody asks for what comes after the last tensor.
    await source.return();
  }
}

function bytesOf({ codes, scales, shifts }: FourBitMatrix): readonly Uint8Array[] {
  return [codes, new Uint8Array(scales.buffer), new Uint8Array(shifts.buffer)];
}

function refsOf(
  { name, members, columns }: Group,
  file: string,
  placed: ReadonlyMap<string, ConvertedTensor>,
): FourBitLinear {
  const ref = (part: string, type: TensorRef['type']): TensorRef => {
    const { shape, offsetBytes, sizeBytes } = defined(placed.get(`${name}.${part}`), part);
    return { name: `${name}.${part}`, shape, file, offsetBytes, sizeBytes, type };
  };
  return {
    inputs: columns,
    outputs: members.map(({ shape }) => rowCount(shape)),
    codes: ref('codes', 'uint8'),
    scales: ref('scales', 'float32'),
    shifts: ref('shifts', 'float32'),
  };
}
