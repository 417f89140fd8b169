import { assert } from '../../src/core/assert.ts';
import type { Random } from '../../src/core/random.ts';
import {
  elementBytes,
  modelTypeOf,
  partBytes,
  type BlockTable,
  type PagedPool,
} from '../../src/runtime/cuda/kernel-shapes.ts';
import { fromBits } from './numbers.ts';
import type { Gpu, Scratch } from './scratch.ts';
import {
  group,
  kvHeads,
  lengthsAfter,
  queryCount,
  queryHeads,
  tokens,
  units,
  type StepCase,
} from './step-case.ts';

const blockSize = 16;
/** A table entry that no kernel may follow. */
const badBlock = 2 ** 29;
/** Rows of a piece, so that long sequences have several. */
const pieceRows = 40;

/** A case's memory on the device. */
export interface StepMemory {
  readonly pool: PagedPool;
  readonly table: BlockTable;
  readonly staging: Uint8Array;
  readonly pieces: Int32Array;
  readonly out: bigint;
  readonly outBytes: number;
  /** Puts one step into the stream; it writes the same rows again when it is repeated. */
  readonly enqueue: () => void;
}

/** Blocks in an order of their own for every sequence, bad entries behind them. */
function makeTable(random: Random): {
  readonly entries: Int32Array;
  readonly maxBlocks: number;
  readonly blocks: number;
} {
  const counts = lengthsAfter.map((length) => Math.ceil(length / blockSize));
  const maxBlocks = Math.max(...counts) + 1;
  const blocks = counts.reduce((sum, count) => sum + count, 3);
  const order = Array.from({ length: blocks }, (_, block) => ({ block, key: random.next() }))
    .sort((a, b) => a.key - b.key)
    .map(({ block }) => block);
  const entries = new Int32Array(counts.length * maxBlocks).fill(badBlock);
  for (const [s, count] of counts.entries()) {
    entries.set(order.splice(0, count), s * maxBlocks);
  }
  return { entries, maxBlocks, blocks };
}

/** Stored rows as they lie on disk: pieces of encoded keys, then values, at multiples of 16. */
function makeStaging(step: StepCase): {
  readonly staging: Uint8Array;
  readonly pieces: Int32Array;
} {
  const pieces: number[] = [];
  const runs: Uint8Array[] = [];
  let offset = 0;
  for (const [sequence, { keys, values }] of step.stored.entries()) {
    for (let first = 0; first < keys.length; first += pieceRows) {
      const rows = [keys, values].flatMap((all) => all.slice(first, first + pieceRows));
      pieces.push(offset / 16, rows.length / 2, first, sequence);
      const bytes = rows.reduce((sum, row) => sum + row.bytes.length, 0);
      const padding = new Uint8Array(Math.ceil(bytes / 16) * 16 - bytes).fill(0xff);
      for (const run of [...rows.map((row) => row.bytes), padding]) {
        runs.push(run);
        offset += run.length;
      }
    }
  }
  return { staging: new Uint8Array(Buffer.concat(runs)), pieces: Int32Array.from(pieces) };
}

/** The pool's bytes with the stored rows in place, for formats that nothing is loaded into. */
function placeRows(
  step: StepCase,
  part: 'keys' | 'values',
  table: ReturnType<typeof makeTable>,
): Uint8Array {
  const bytes = new Uint8Array(table.blocks * blockSize * step.headDim).fill(0x80);
  for (const [sequence, rows] of step.stored.entries()) {
    for (const [i, row] of rows[part].entries()) {
      const block = table.entries[sequence * table.maxBlocks + Math.floor(i / blockSize)] ?? 0;
      bytes.set(row.bytes, (block * blockSize + (i % blockSize)) * step.headDim);
    }
  }
  return bytes;
}

function makePool(
  step: StepCase,
  scratch: Scratch,
  table: ReturnType<typeof makeTable>,
): PagedPool {
  const { format, headDim } = step;
  const rows = table.blocks * blockSize;
  const poison = elementBytes(format) === 1 ? 0x80 : 0xff;
  const elements = (part: 'keys' | 'values'): bigint =>
    format === 'i8c'
      ? scratch.upload(placeRows(step, part, table))
      : scratch.room(rows * headDim * elementBytes(format), poison);
  const pool = { format, headDim, blockSize, keys: elements('keys'), values: elements('values') };
  if (format === 'i8r') {
    return { ...pool, keyLargest: scratch.room(rows * 2), valueLargest: scratch.room(rows * 2) };
  }
  if (format !== 'i8c') return pool;
  const [keyScales, valueScales] = [step.keyScales, step.valueScales].map((x) => scratch.upload(x));
  assert(keyScales !== undefined && valueScales !== undefined, 'both are there');
  return { ...pool, keyScales, valueScales };
}

/** Addresses that a step uses. */
interface StepAddresses {
  readonly pool: PagedPool;
  readonly table: BlockTable;
  readonly lengths: bigint;
  readonly newKeys: bigint;
  readonly newValues: bigint;
  readonly tokens: bigint;
  readonly queries: bigint;
  readonly out: bigint;
  readonly starts: bigint;
  readonly units: bigint;
  readonly partials: bigint;
  readonly stats: bigint;
  readonly queryUnits: bigint;
}

/** Lays a case out on the device and says how its step runs. */
export function prepareStep(
  gpu: Gpu,
  scratch: Scratch,
  random: Random,
  step: StepCase,
): StepMemory {
  const table = makeTable(random);
  const outBytes = queryCount * queryHeads * step.headDim * 2;
  const parts = partBytes({ ...step, queries: queryCount, unitsPerQuery, kvHeads, group });
  const listed = units.flatMap(({ first, count, causal }) => [first, count, causal, 0]);
  const addresses: StepAddresses = {
    pool: makePool(step, scratch, table),
    table: { address: scratch.upload(table.entries), maxBlocks: table.maxBlocks },
    lengths: scratch.upload(Int32Array.from(lengthsAfter)),
    newKeys: scratch.upload(step.newKeys.bits),
    newValues: scratch.upload(step.newValues.bits),
    tokens: scratch.upload(Int32Array.from(tokens.flat())),
    queries: scratch.upload(step.queries.bits),
    out: scratch.room(outBytes),
    starts: scratch.room((sequences + 1) * 8),
    units: scratch.upload(Int32Array.from(listed)),
    partials: scratch.room(parts.partials),
    stats: scratch.room(parts.stats),
    queryUnits: scratch.upload(readers()),
  };
  const grid = gpu.kernels.attendGrid(step);
  assert(grid > 0, `attend has resident blocks, not ${grid}`);
  const enqueue = (): void => {
    enqueueStep(gpu, step, { ...addresses, grid });
  };
  return { ...addresses, ...makeStaging(step), outBytes, enqueue };
}

const sequences = lengthsAfter.length;
const unitsPerQuery = 2;

/** The units that each query reads. */
function readers(): Int32Array {
  const all = Array.from({ length: queryCount }, (_, query) => {
    const read = units.flatMap(({ first, count }, i) =>
      query >= first && query < first + count ? [i] : [],
    );
    return Array.from({ length: unitsPerQuery }, (_, i) => read[i] ?? -1);
  });
  return Int32Array.from(all.flat());
}

function enqueueStep(gpu: Gpu, step: StepCase, a: StepAddresses & { readonly grid: number }): void {
  const { stream, kernels } = gpu;
  const { format, headDim, rows } = step;
  const shape = { sequences, kvHeads, group };
  kernels.plan(stream, { ...a, ...shape, layers: 1, format });
  kernels.append(stream, { ...a, kvHeads, tokenCount: tokens.length });
  kernels.attend(stream, { ...a, ...shape, rows, early: true });
  kernels.merge(stream, {
    ...a,
    ...shape,
    type: modelTypeOf(format),
    headDim,
    queries: queryCount,
    unitsPerQuery,
    early: true,
  });
}

/** The results that the device has. */
export function readOutput(scratch: Scratch, step: StepCase, memory: StepMemory): Float64Array {
  const bits = new Uint16Array(scratch.download(memory.out, memory.outBytes).buffer);
  const type = modelTypeOf(step.format);
  return Float64Array.from(bits, (x) => fromBits(type, x));
}
