import { median } from '../../../eval/median.ts';
import { assert } from '../../../src/core/assert.ts';
import type { Closeable } from '../../../src/core/closeable.ts';
import type { KvLayout } from '../../../src/core/kv-layout.ts';
import { OnnxModel } from '../../../src/graph/onnx-model.ts';
import { BlockPool, blockSize } from '../../../src/runtime/cuda/block-pool.ts';
import { blocksOf, CudaContextCache } from '../../../src/runtime/cuda/context-cache.ts';
import type { CudaDevice, DeviceMemory } from '../../../src/runtime/cuda/device.ts';
import { Gpu } from '../../../src/runtime/cuda/gpu.ts';
import type { HeadDim } from '../../../src/runtime/cuda/kernel-shapes.ts';
import type { LaunchCall } from '../../../src/runtime/cuda/query-call.ts';
import { RowTransfer } from '../../../src/runtime/cuda/row-transfer.ts';
import type { ContextCache } from '../../../src/runtime/runtime.ts';
import type { Rates } from './bench.ts';
import { randomHalves } from './random-source.ts';
import { elementBytes } from './shapes.ts';

const noiseBytes = 64 * 1024 * 1024;
const copiedBytes = 4 * 1024 ** 3;
const pinnedBytes = 256 * 1024 * 1024;
const copies = 10;
/** Rows and columns of the matrices of `matrixFlops`. */
const matrixSize = 8192;
/** Products of a round: long enough that starting them costs nothing. */
const products = 20;
/** About a second in all: cards lower their clocks when they get warm. */
const productRounds = 25;

/** A card with a stream of our own, beside the runtime's. Closed last. */
export class Card implements Closeable {
  readonly #gpu: Gpu;
  /** Random halves, N(0, 1). */
  readonly #noise: DeviceMemory;

  constructor(deviceIndex: number) {
    this.#gpu = new Gpu(deviceIndex);
    const { device, stream } = this.#gpu;
    this.#noise = device.allocate(noiseBytes);
    stream.copyToDevice(this.#noise.address, randomHalves(noiseBytes / elementBytes, 1));
    stream.synchronize();
  }

  get device(): CudaDevice {
    return this.#gpu.device;
  }

  freeBytes(): number {
    return this.device.memory().freeBytes;
  }

  /** What the card does at best. Takes seconds, and 8 GiB for a moment. */
  rates(): Rates {
    return {
      copyBytes: this.#copyRate(),
      matrixFlops: this.#matrixRate(),
      hostBytes: this.#hostRate(),
    };
  }

  /** Fills the rows of a context with noise, and waits. */
  fill(context: ContextCache): void {
    assert(context instanceof CudaContextCache, 'a context of the CUDA runtime');
    const { pool } = context.target;
    const sideBytes = blockSize * pool.headDim * elementBytes;
    const most = Math.floor(noiseBytes / sideBytes);
    for (const [first, count] of runsOf(blocksIn(context), most)) {
      for (const side of [pool.keys, pool.values]) {
        this.#gpu.stream.copyOnDevice({
          source: this.#noise.address,
          target: side + BigInt(first * sideBytes),
          sizeBytes: count * sideBytes,
        });
      }
    }
    this.#gpu.stream.synchronize();
  }

  /** Device memory that contexts take of a pool that has none yet, by what the driver has left. */
  contextBytes(layout: KvLayout, lengths: readonly Uint32Array[]): number {
    const gpu = this.#gpu;
    const headDim = layout.headDim as HeadDim;
    const poolBytes = this.device.totalBytes;
    const blocks = new BlockPool(gpu, { format: 'f16', headDim, poolBytes });
    const transfer = new RowTransfer(gpu, { headDim, type: 'f16' });
    try {
      const freeBytes = this.freeBytes();
      const options = { gpu, layout, blocks, transfer };
      const contexts = lengths.map((each) => new CudaContextCache(options, each));
      const usedBytes = freeBytes - this.freeBytes();
      for (const context of contexts) context.close();
      return usedBytes;
    } finally {
      transfer.close();
      blocks.close();
    }
  }

  close(): void {
    this.#noise.close();
    this.#gpu.close();
  }

  #copyRate(): number {
    const [source, target] = [this.device.allocate(copiedBytes), this.device.allocate(copiedBytes)];
    const copy = { source: source.address, target: target.address, sizeBytes: copiedBytes };
    try {
      const ms = this.#timed(copies, () => this.#gpu.stream.copyOnDevice(copy));
      return (2 * copiedBytes * 1000) / ms;
    } finally {
      source.close();
      target.close();
    }
  }

  #hostRate(): number {
    const [source, target] = [this.device.pin(pinnedBytes), this.device.allocate(pinnedBytes)];
    source.bytes.fill(1);
    try {
      const ms = this.#timed(copies, () => this.#gpu.stream.copyToDevice(target.address, source));
      return (pinnedBytes * 1000) / ms;
    } finally {
      source.close();
      target.close();
    }
  }

  #matrixRate(): number {
    const matrixBytes = matrixSize ** 2 * elementBytes;
    const memory = this.device.allocate(3 * matrixBytes);
    const session = this.#gpu.ort.createSession(productGraph());
    const shapes = { a: [1, matrixSize, matrixSize], b: [matrixSize, matrixSize] } as const;
    const at = (i: number): bigint => memory.address + BigInt(i * matrixBytes);
    const a = this.#gpu.ort.tensor('float16', at(0), shapes.a);
    const b = this.#gpu.ort.tensor('float16', at(1), shapes.b);
    const out = this.#gpu.ort.tensor('float16', at(2), shapes.a);
    const binding = session.bind();
    try {
      // The two matrices lie one behind the other.
      for (let offset = 0; offset < 2 * matrixBytes; offset += noiseBytes) {
        this.#gpu.stream.copyOnDevice({
          source: this.#noise.address,
          target: memory.address + BigInt(offset),
          sizeBytes: Math.min(noiseBytes, 2 * matrixBytes - offset),
        });
      }
      binding.input('a', a);
      binding.input('b', b);
      binding.output('out', out);
      const ms = this.#timed(productRounds, () => {
        for (let i = 0; i < products; i++) binding.run();
      });
      return (2 * matrixSize ** 3 * products * 1000) / ms;
    } finally {
      this.#gpu.stream.synchronize();
      for (const each of [binding, a, b, out, session, memory]) each.close();
    }
  }

  /** Median of the device's milliseconds over some rounds, after one that is not counted. */
  #timed(count: number, work: () => void): number {
    work();
    const times = Array.from({ length: count }, () => {
      const start = this.#gpu.stream.record();
      work();
      const end = this.#gpu.stream.record();
      const ms = start.elapsedMs(end);
      start.close();
      end.close();
      return ms;
    });
    return median(times);
  }
}

function productGraph(): Uint8Array {
  const model = new OnnxModel();
  const a = model.input('a', 'float16', [1, 'rows', matrixSize]);
  const b = model.input('b', 'float16', [matrixSize, matrixSize]);
  model.node('FusedMatMul', [a, b], {
    microsoft: true,
    attributes: { transB: 1 },
    outputs: [model.output('out', 'float16', [1, 'rows', matrixSize])],
  });
  return model.encode();
}

/** Numbers of a context's blocks, ascending. */
function blocksIn(context: CudaContextCache): Int32Array {
  const { table, maxBlocks } = context.target;
  const blocks: number[] = [];
  for (const [head, rows] of context.lengths.entries()) {
    for (let i = 0; i < blocksOf(rows); i++) blocks.push(table[head * maxBlocks + i] as number);
  }
  return Int32Array.from(blocks).sort();
}

/** Blocks that lie one behind another, at most `most` together. */
function* runsOf(blocks: Int32Array, most: number): Generator<readonly [number, number]> {
  let [first, count] = [0, 0];
  for (const block of blocks) {
    if (count > 0 && block === first + count && count < most) {
      count++;
      continue;
    }
    if (count > 0) yield [first, count];
    [first, count] = [block, 1];
  }
  if (count > 0) yield [first, count];
}

/** Launches of a step whose mean is taken, so that the host's time for one does not count. */
const stepRepeats = 8;

/**
 * Device time of captured steps. A step writes the same rows again when it is repeated, so what
 * follows is as without.
 */
export class StepTimer {
  #times: number[] | undefined;

  readonly launch: LaunchCall = (graph, stream) => {
    graph.launch(stream);
    if (this.#times === undefined) return;
    const start = stream.record();
    for (let i = 0; i < stepRepeats; i++) graph.launch(stream);
    const end = stream.record();
    this.#times.push(start.elapsedMs(end) / stepRepeats);
    start.close();
    end.close();
  };

  /** Milliseconds of each step that `work` computed. */
  time(work: () => void): readonly number[] {
    const times: number[] = [];
    this.#times = times;
    try {
      work();
    } finally {
      this.#times = undefined;
    }
    return times;
  }
}
