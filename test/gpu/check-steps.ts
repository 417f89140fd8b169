import { createRandom } from '../../src/core/random.ts';
import { modelTypeOf } from '../../src/runtime/cuda/kernel-shapes.ts';
import { relativeError, same, within } from './numbers.ts';
import { Scratch, type Gpu } from './scratch.ts';
import { expectedOutput, makeCase, type StepFormats } from './step-case.ts';
import { prepareStep, readOutput, type StepMemory } from './step-run.ts';

/** Says how a named check went; the check throws if it fails, and may return what it found. */
export type Check = (name: string, run: () => string | undefined) => void;

/**
 * ‖out − expected‖ / ‖expected‖. Weights and results are rounded to the model's type, by at most
 * 2^-11 (f16) and 2^-8 (bf16) of themselves.
 */
const tolerance = { f16: 1e-3, bf16: 6e-3 } as const;

const cases: readonly StepFormats[] = [
  { format: 'f16', staged: 'f16', headDim: 64, rows: 64 },
  { format: 'f16', staged: 'i8', headDim: 128, rows: 16 },
  { format: 'bf16', staged: 'f32', headDim: 128, rows: 128 },
  { format: 'i8r', staged: 'i8', headDim: 128, rows: 16 },
  { format: 'i8c', headDim: 64, rows: 64 },
];

/** Steps of ragged contexts and tails in every format: alone, and as graphs. */
export function checkSteps(gpu: Gpu, check: Check): void {
  for (const [seed, formats] of cases.entries()) {
    const { format, staged, headDim } = formats;
    const name = `${format} d${headDim}${staged === undefined ? '' : ` from ${staged}`}`;
    const random = createRandom(seed);
    const scratch = new Scratch(gpu);
    try {
      const step = makeCase(random, formats);
      const memory = prepareStep(gpu, scratch, random, step);
      if (staged !== undefined) {
        check(`load and store, ${name}`, () => checkTransfer(gpu, scratch, memory, staged));
      }
      const expected = expectedOutput(step);
      check(`plan, append, attend, merge, ${name}`, () => {
        memory.enqueue();
        const error = relativeError(readOutput(scratch, step, memory), expected);
        return within(error, tolerance[modelTypeOf(format)]);
      });
      check(`the same as a graph, twice, ${name}`, () => checkGraph(gpu, scratch, memory));
    } finally {
      scratch.close();
    }
  }
}

/** Loads the stored rows, and stores them again into poisoned memory: the same bytes. */
function checkTransfer(
  gpu: Gpu,
  scratch: Scratch,
  memory: StepMemory,
  staged: NonNullable<StepFormats['staged']>,
): string {
  const { stream, kernels } = gpu;
  const { pool, table, staging, pieces } = memory;
  const pinned = gpu.device.pin(staging.length);
  try {
    pinned.bytes.set(staging);
    const piecesAt = scratch.upload(pieces);
    const options = { staged, pieces: piecesAt, pieceCount: pieces.length / 4, pool, table };
    // The kernel reads the host's memory itself.
    kernels.load(stream, { ...options, staging: pinned.address });
    const back = scratch.room(staging.length);
    kernels.store(stream, { ...options, staging: back, blocksPerPiece: 1 });
    same(scratch.download(back, staging.length), staging);
  } finally {
    stream.synchronize();
    pinned.close();
  }
  return `${pieces.length / 4} pieces, ${staging.length} bytes`;
}

/** Captures the step, and replays it into poisoned results: the bits of the step alone. */
function checkGraph(gpu: Gpu, scratch: Scratch, memory: StepMemory): undefined {
  const { stream } = gpu;
  const { out, outBytes } = memory;
  memory.enqueue();
  const alone = scratch.download(out, outBytes);
  const graph = stream.capture(memory.enqueue);
  try {
    for (let replay = 0; replay < 2; replay++) {
      stream.fill(out, { sizeBytes: outBytes, value: 0xff });
      graph.launch(stream);
      same(scratch.download(out, outBytes), alone);
    }
  } finally {
    stream.synchronize();
    graph.close();
  }
  return undefined;
}
