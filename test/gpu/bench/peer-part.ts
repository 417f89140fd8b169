import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { atLeast } from '../../../eval/check.ts';
import type { PartReport } from '../../../eval/part.ts';
import { resolveBudget } from '../../../src/compression/registry.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import type { GraphSource } from '../../../src/graph/decoder-blocks.ts';
import type { TensorRef } from '../../../src/model/checkpoint.ts';
import type { ModelConfig } from '../../../src/model/config.ts';
import { readSafetensorsHeader } from '../../../src/model/safetensors.ts';
import { createCudaRuntime } from '../../../src/runtime/cuda/cuda-runtime.ts';
import { createOrtCpuRuntime } from '../../../src/runtime/ort/cpu-runtime.ts';
import { runPieces } from '../../../src/runtime/run-pieces.ts';
import type { Runtime } from '../../../src/runtime/runtime.ts';
import { keptRatio } from './bench.ts';

/** A pass of the other implementation: document tokens `[start, end)`, and what it was fed. */
interface PeerPass {
  readonly start: number;
  readonly end: number;
  /** Rows `[0, sinks)` are beside the chunk in the softmax. */
  readonly sinks: number;
  readonly ids: readonly number[];
}

/** `peer.json` of `bench_kvpress.py scores`: a model, a document, and the passes over it. */
interface PeerCase {
  readonly config: ModelConfig;
  /** Safetensors, float32, of numbers that float16 holds. */
  readonly weights: string;
  readonly documentIds: readonly number[];
  readonly passes: readonly PeerPass[];
  /** Files of float32 scores, `[layers · kvHeads, tokens]`, by what they were computed in. */
  readonly scores: Readonly<Record<'float32' | 'float16', string>>;
}

/** Of the smaller pool that a model of two layers needs. */
const poolBytes = 1e9;

interface Agreement {
  readonly what: string;
  /** ‖a − b‖ / ‖b‖ */
  readonly relativeError: number;
  readonly largestError: number;
  /** Share of the pairs that one keeps which the other keeps too. */
  readonly sameKept: number;
}

/** Where the other side left its files, and where ours is computed. */
export interface PeerOptions {
  readonly folder: string;
  readonly deviceIndex: number;
  readonly progress: (text: string) => void;
}

/** Our scores beside kvpress's, of one model and the same passes. */
export async function peerPart({
  folder,
  deviceIndex,
  progress,
}: PeerOptions): Promise<PartReport> {
  const peer: PeerCase = JSON.parse(readFileSync(join(folder, 'peer.json'), 'utf8'));
  const source = await readSource(folder, peer);
  const theirs = {
    float32: readScores(join(folder, peer.scores.float32)),
    float16: readScores(join(folder, peer.scores.float16)),
  };
  progress('scores on the CPU');
  // First: who comes first decides how many threads ONNX Runtime has.
  const cpu = createOrtCpuRuntime(source, { threads: availableParallelism() });
  const onCpu = scoresOf(cpu, peer);
  cpu.close();
  progress('scores on the GPU');
  const cuda = createCudaRuntime(source, { deviceIndex, poolBytes, precision: 'f16' });
  const onCuda = scoresOf(cuda, peer);
  const { layout } = cuda;
  cuda.close();
  const keep = (scores: Float32Array): ReadonlySet<number> => {
    const { counts, positions } = resolveBudget('global').select(scores, layout, keptRatio);
    const tokens = peer.documentIds.length;
    const kept = new Set<number>();
    let next = 0;
    for (const [head, count] of counts.entries()) {
      for (const end = next + count; next < end; next++) {
        kept.add(head * tokens + (positions[next] as number));
      }
    }
    return kept;
  };
  const compare = (what: string, a: Float32Array, b: Float32Array): Agreement => {
    const [first, second] = [keep(a), keep(b)];
    const same = [...first].filter((pair) => second.has(pair)).length;
    return { what, ...errors(a, b), sameKept: same / first.size };
  };
  return report(peer, [
    compare('ours, CPU float32 – kvpress float32', onCpu, theirs.float32),
    compare('ours, CUDA float16 – kvpress float32', onCuda, theirs.float32),
    compare('kvpress float16 – kvpress float32', theirs.float16, theirs.float32),
    compare('ours, CUDA float16 – kvpress float16', onCuda, theirs.float16),
  ]);
}

function report(peer: PeerCase, agreements: readonly Agreement[]): PartReport {
  const { layers, queryHeads, kvHeads, headDim, hiddenSize } = peer.config;
  const percent = (value: number): string => `${(100 * value).toFixed(2)} %`;
  return {
    title: 'KVzip scores beside kvpress',
    explanation:
      `Random weights, ${layers} layers of ${hiddenSize}, ${queryHeads} query and ${kvHeads} KV ` +
      `heads of ${headDim}; ${peer.documentIds.length} tokens in ${peer.passes.length} passes, ` +
      `the same token ids and sinks. Kept: the best ${keptRatio} of all pairs. What float16 ` +
      'changes in kvpress itself is the third line.',
    tables: [
      {
        title: 'Scores',
        headers: ['', 'relative error', 'largest error', 'the same pairs kept'],
        rows: agreements.map((each) => [
          each.what,
          each.relativeError.toExponential(1),
          each.largestError.toExponential(1),
          percent(each.sameKept),
        ]),
      },
    ],
    checks: agreements.slice(0, 2).map(({ what, sameKept }, i) =>
      atLeast(i === 0 ? 0.999 : 0.99, {
        what: `the same pairs kept: ${what}`,
        value: sameKept,
        format: percent,
      }),
    ),
    data: agreements,
  };
}

async function readSource(folder: string, peer: PeerCase): Promise<GraphSource> {
  const file = join(folder, peer.weights);
  const { entries } = await readSafetensorsHeader(file);
  const tensors = entries.map(({ name, shape, offsetBytes, sizeBytes }): [string, TensorRef] => [
    name,
    { name, shape, file, offsetBytes, sizeBytes },
  ]);
  return { config: peer.config, tensors: new Map(tensors) };
}

function readScores(file: string): Float32Array {
  const bytes = readFileSync(file);
  // A copy of its own: floats lie at multiples of four.
  return new Float32Array(new Uint8Array(bytes).buffer);
}

/** `[layers · kvHeads, tokens]` */
function scoresOf(runtime: Runtime, { documentIds, passes }: PeerCase): Float32Array {
  const ids = Int32Array.from(documentIds);
  const tokens = ids.length;
  const heads = headCount(runtime.layout);
  const longest = Math.max(...passes.map((pass) => pass.ids.length));
  const cache = runtime.createDense(tokens + longest);
  const all = new Float32Array(heads * tokens);
  try {
    for (const slice of slicesOf(ids, runtime.sliceTokens)) {
      runPieces(runtime.prefill(cache, slice));
    }
    for (const { start, end, sinks, ids: passIds } of passes) {
      const scores = new Float32Array(heads * (end - start));
      for (const slice of slicesOf(Int32Array.from(passIds), runtime.sliceTokens)) {
        runPieces(
          runtime.score(cache, {
            ids: slice,
            sinkEnd: sinks,
            chunkStart: start,
            chunkEnd: end,
            passStart: tokens,
            scores,
          }),
        );
      }
      cache.truncate(tokens);
      for (let head = 0; head < heads; head++) {
        const ofHead = scores.subarray(head * (end - start), (head + 1) * (end - start));
        all.set(ofHead, head * tokens + start);
      }
    }
  } finally {
    cache.close();
  }
  return all;
}

function* slicesOf(ids: Int32Array, most: number): Generator<Int32Array> {
  for (let start = 0; start < ids.length; start += most) yield ids.subarray(start, start + most);
}

function errors(
  a: Float32Array,
  b: Float32Array,
): { readonly relativeError: number; readonly largestError: number } {
  let [difference, size, largestError] = [0, 0, 0];
  for (const [i, x] of b.entries()) {
    const error = Math.abs((a[i] as number) - x);
    difference += error ** 2;
    size += x ** 2;
    largestError = Math.max(largestError, error);
  }
  return { relativeError: Math.sqrt(difference / size), largestError };
}
