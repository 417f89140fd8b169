/**
 * The CUDA runtime beside the CPU's on one model: what both compute from the same tokens and rows.
 * Run on a GPU machine: `node dist/test/gpu/runtime-check.js [MODEL [f16|int8]]`.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { resolvePrecision } from '../../src/compression/registry.ts';
import { createRandom } from '../../src/core/random.ts';
import type { Precision } from '../../src/core/precision.ts';
import { createCudaRuntime, type DevicePrecision } from '../../src/runtime/cuda/cuda-runtime.ts';
import { CudaDevice } from '../../src/runtime/cuda/device.ts';
import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { ContextCache, DenseCache, Runtime } from '../../src/runtime/runtime.ts';
import {
  agreement,
  answer,
  check,
  counts,
  decoded,
  loadContext,
  raggedRows,
  relativeError,
} from './compare.ts';
import { checkCompany } from './company-checks.ts';
import { modelOf } from './random-models.ts';
import { checkTails } from './tail-checks.ts';

/** Share of the best third of `a`, over all heads, that is in `b`'s. */
function overlap(a: Float32Array, b: Float32Array): number {
  const best = (scores: Float32Array): Set<number> =>
    new Set(
      Array.from(scores.keys())
        .toSorted((i, j) => (scores[j] as number) - (scores[i] as number))
        .slice(0, Math.round(0.3 * scores.length)),
    );
  const [first, second] = [best(a), best(b)];
  return [...first].filter((i) => second.has(i)).length / first.size;
}

function timed(work: () => void): number {
  const startMs = performance.now();
  work();
  return performance.now() - startMs;
}

interface Ingested {
  readonly dense: DenseCache;
  readonly scores: Float32Array;
  readonly predictions: Int32Array;
}

function ingest(runtime: Runtime, ids: Int32Array, heads: number, prefix: number): Ingested {
  const tokens = ids.length;
  const dense = runtime.createDense(2 * tokens + 16);
  const slice = Math.min(runtime.sliceTokens, 300);
  const ms = timed(() => {
    for (let start = 0; start < tokens; start += slice) {
      runPieces(runtime.prefill(dense, ids.subarray(start, start + slice)));
    }
  });
  const chunk = tokens - prefix;
  const scores = new Float32Array(heads * chunk);
  const predictions = new Int32Array(chunk);
  const scoreMs = timed(() => {
    for (let start = 0; start < chunk; start += slice) {
      const end = Math.min(start + slice, chunk);
      runPieces(
        runtime.score(dense, {
          ids: ids.subarray(prefix + start, prefix + end),
          sinkEnd: prefix,
          chunkStart: prefix,
          chunkEnd: tokens,
          passStart: tokens,
          scores,
          predictions: predictions.subarray(start, end),
        }),
      );
    }
  });
  process.stdout.write(
    `${runtime.name}: ${tokens} tokens, prefill ${ms.toFixed(0)} ms, score ${scoreMs.toFixed(0)} ms\n`,
  );
  dense.truncate(tokens);
  return { dense, scores, predictions };
}

async function main(model: string, held: DevicePrecision): Promise<void> {
  // bfloat16 has three digits fewer.
  const most = (error: number): number => (held === 'bf16' ? 8 * error : error);
  const folder = mkdtempSync(join(tmpdir(), 'readonce-gpu-check-'));
  const source = await modelOf(model, folder);
  const cpu = createOrtCpuRuntime(source, { threads: 8 });
  const startMs = performance.now();
  const cuda = createCudaRuntime(source, { deviceIndex: 0, poolBytes: 0, precision: held });
  process.stdout.write(`CUDA runtime in ${(performance.now() - startMs).toFixed(0)} ms\n`);
  process.stdout.write(`warm in ${timed(() => cuda.warm()).toFixed(0)} ms\n`);
  const { layers, kvHeads, headDim } = cuda.layout;
  const heads = layers * kvHeads;
  const random = createRandom(3);
  const ids = Int32Array.from({ length: 700 }, () =>
    Math.floor(random.next() * Math.min(2000, cuda.config.vocabSize)),
  );
  const [prefix, f32, f16] = [12, resolvePrecision('f32'), resolvePrecision('f16')];
  const onCpu = ingest(cpu, ids, heads, prefix);
  const onCuda = ingest(cuda, ids, heads, prefix);
  ingest(cuda, ids, heads, prefix).dense.close();

  const all = Uint32Array.from({ length: ids.length }, (_, row) => row);
  const errors = Array.from({ length: heads }, (_, head) =>
    relativeError(
      decoded(onCuda.dense.pairs(head, all, f32), f32, headDim),
      decoded(onCpu.dense.pairs(head, all, f32), f32, headDim),
    ),
  );
  const worst = Math.max(...errors);
  check('prefill: keys and values', worst < most(0.02), `worst head ${worst.toExponential(2)}`);
  const keysError = relativeError(onCuda.dense.keys(1, 5, 40), onCpu.dense.keys(1, 5, 40));
  check('keys()', keysError < most(0.02), keysError.toExponential(2));
  const scoreError = relativeError(onCuda.scores, onCpu.scores);
  check('scores', scoreError < most(0.03), scoreError.toExponential(2));
  const kept = overlap(onCuda.scores, onCpu.scores);
  check('kept at 0.3', kept >= 1 - most(0.005), `${(100 * kept).toFixed(2)} %`);
  const predicted =
    onCuda.predictions.filter((id, i) => id === onCpu.predictions[i]).length /
    onCpu.predictions.length;
  check('predictions', predicted > 1 - most(0.02), `${(100 * predicted).toFixed(2)} % equal`);

  for (const precision of [f16, f32, resolvePrecision('int8')]) {
    checkContexts(precision);
  }

  function checkContexts(precision: Precision): void {
    const rows = raggedRows(heads, ids.length, 0.3);
    const pairs = rows.map((each, head) => onCpu.dense.pairs(head, each, precision));
    const contexts = [cpu, cuda].map((runtime) => loadContext(runtime, pairs, precision));
    const questions = Array.from({ length: 20 }, (_, i) =>
      ids.slice(5 * i, 5 * i + 3 + ((i * 17) % 90)),
    );
    const options = { tokens: 40, startPosition: ids.length };
    const [expected, got] = [cpu, cuda].map((runtime, i) =>
      answer(
        runtime,
        questions.map((each) => ({ context: contexts[i] as ContextCache, ids: each })),
        options,
      ),
    );
    if (expected === undefined || got === undefined) throw new Error('two runtimes');
    const error = Math.max(
      ...got.first.map((logits, i) => relativeError(logits, expected.first[i] as Float32Array)),
    );
    const name = precision.name;
    // What is stored finer than it is held is rounded once more.
    const isRounded = held === 'bf16' || (held === 'int8' && name !== 'int8');
    check(`${name}: first logits`, error < (isRounded ? 0.5 : 0.1), error.toExponential(2));
    const same = agreement(got.ids, expected.ids);
    check(
      `${name}: 20 answers together`,
      same > (isRounded ? 0.5 : 0.9),
      `${(100 * same).toFixed(1)} % of tokens`,
    );
    process.stdout.write(
      `step of 20: cpu ${expected.msPerStep.toFixed(1)} ms, cuda ${got.msPerStep.toFixed(2)} ms\n`,
    );
    const context = contexts[1] as ContextCache;
    const alone = questions
      .slice(0, 4)
      .flatMap((each) => answer(cuda, [{ context, ids: each }], options).ids);
    const company = agreement(alone, got.ids.slice(0, 4));
    check(`${name}: alone as in company`, company === 1, `${(100 * company).toFixed(1)} %`);
    for (const each of contexts) each.close();
  }

  checkMemory();

  function checkMemory(): void {
    const device = CudaDevice.open(0);
    const used = (): number => device.memory().totalBytes - device.memory().freeBytes;
    const tokens = Math.round(4e9 / (heads * cuda.rowBytes));
    const measure = (ratio: number): number => {
      const before = used();
      const context = cuda.createContext(new Uint32Array(heads).fill(ratio * tokens));
      const bytes = used() - before;
      context.close();
      return bytes;
    };
    measure(1);
    const [full, third] = [measure(1), measure(0.3)];
    check(
      'memory of a context at 0.3 of that at 1',
      third <= 0.33 * full,
      `${(third / 1e6).toFixed(0)} of ${(full / 1e6).toFixed(0)} MB, ${(third / full).toFixed(3)}`,
    );
    let code = 'none';
    try {
      cuda.createContext(new Uint32Array(heads).fill(2 ** 31));
    } catch (error) {
      code = (error as { code?: string }).code ?? String(error);
    }
    check('too large a context', code === 'out_of_memory', code);
  }

  checkLife();

  function checkLife(): void {
    const context = cuda.contextOf(onCuda.dense);
    const options = { tokens: 20, startPosition: ids.length };
    const question = ids.slice(3, 40);
    const before = answer(cuda, [{ context, ids: question }], options);
    const copy = cuda.createContext(new Uint32Array(heads).fill(ids.length + 50));
    copy.copyFrom(context);
    copy.resize(new Uint32Array(heads).fill(ids.length));
    const copied = answer(cuda, [{ context: copy, ids: question }], options);
    check('copied and resized', agreement(copied.ids, before.ids) === 1, 'same answer');
    const tier = cuda.hostTier;
    if (tier === undefined) throw new Error('a host tier');
    const kept = tier.copy(context);
    const restored = tier.restore(kept);
    const back = answer(cuda, [{ context: restored, ids: question }], options);
    check('copied to the host and back', agreement(back.ids, before.ids) === 1, 'same answer');
    restored.close();
    kept.close();
    const onHost = cpu.contextOf(onCpu.dense);
    const expected = answer(cpu, [{ context: onHost, ids: question }], options);
    const same = agreement(before.ids, expected.ids);
    check(
      'context of a dense cache',
      same > (held === 'f16' ? 0.9 : 0.5),
      `${(100 * same).toFixed(1)} %`,
    );
    checkCompany({ cuda, contexts: [context, copy], ids });
    copy.close();
    checkTails({ cpu, cuda, contexts: { cpu: onHost, cuda: context }, ids, held });
    context.close();
  }

  cuda.close();
  cpu.close();
  rmSync(folder, { recursive: true, force: true });
}

const [model = 'reader-mini', held = 'f16'] = process.argv.slice(2);
await main(model, held === 'int8' || held === 'bf16' ? held : 'f16');
const { passed, failed } = counts();
process.stdout.write(`${passed} passed, ${failed} failed\n`);
process.exitCode = failed === 0 ? 0 : 1;
