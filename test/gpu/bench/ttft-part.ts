import { atLeast } from '../../../eval/check.ts';
import { median } from '../../../eval/median.ts';
import type { PartReport } from '../../../eval/part.ts';
import { runPieces } from '../../../src/runtime/run-pieces.ts';
import type { ContextCache } from '../../../src/runtime/runtime.ts';
import { keptRatio, loadRounds, questionTokens, rounds, timedLoad, type Bench } from './bench.ts';
import { randomIds } from './documents.ts';
import { StoredContextFiles } from './stored-context.ts';

const coldRounds = 3;
const warmRounds = 5;
const residentRounds = 15;
const prefillRounds = 2;

/** The first token of a question on a long document, by where its context is. */
export async function ttftPart(bench: Bench): Promise<PartReport> {
  const { progress } = bench;
  const files = await StoredContextFiles.make(bench);
  try {
    const load = async (): Promise<void> => {
      const context = await files.load(bench.runtime);
      try {
        firstToken(bench, context);
      } finally {
        context.close();
      }
    };
    await loadRounds(2, load);
    const cachedMs = median(await loadRounds(warmRounds, load));
    progress(`ttft: from the page cache ${cachedMs.toFixed(1)} ms`);
    const hostMs = await measureHost(bench, files);
    progress(`ttft: from host memory ${hostMs.toFixed(1)} ms`);
    const cold: number[] = [];
    for (let round = 0; round < coldRounds; round++) {
      await files.dropFromMemory();
      cold.push(await timedLoad(load));
    }
    const coldMs = median(cold);
    progress(`ttft: from disk ${coldMs.toFixed(1)} ms`);
    const residentMs = await measureResident(bench, files);
    progress(`ttft: resident ${residentMs.toFixed(2)} ms`);
    prefillFirst(bench);
    const prefillMs = median(rounds(prefillRounds, () => prefillFirst(bench)));
    progress(`ttft: prefilling ${prefillMs.toFixed(0)} ms`);
    return report(bench, { prefillMs, coldMs, cachedMs, hostMs, residentMs });
  } finally {
    await files.remove();
  }
}

/** Computes a question and waits for the token. */
function firstToken({ runtime, model, tokens }: Bench, context: ContextCache): void {
  const tail = runtime.createTail();
  const view = context.view(context.lengths);
  try {
    const ids = randomIds(questionTokens, model.config.vocabSize, 600);
    const slot = { context: view, tail, ids, startPosition: tokens };
    for (const logits of runtime.forward([slot])) logits.argmax();
  } finally {
    tail.close();
    view.close();
  }
}

/** From the copy that the engine keeps of a context that gave way. */
async function measureHost(bench: Bench, files: StoredContextFiles): Promise<number> {
  const { runtime } = bench;
  const tier = runtime.hostTier;
  if (tier === undefined) return NaN;
  const context = await files.load(runtime);
  const copy = tier.copy(context);
  context.close();
  const ask = (): void => {
    const restored = tier.restore(copy);
    try {
      firstToken(bench, restored);
    } finally {
      restored.close();
    }
  };
  try {
    rounds(3, ask);
    return median(rounds(residentRounds, ask));
  } finally {
    copy.close();
  }
}

async function measureResident(bench: Bench, files: StoredContextFiles): Promise<number> {
  const context = await files.load(bench.runtime);
  try {
    const ask = (): void => firstToken(bench, context);
    rounds(3, ask);
    return median(rounds(residentRounds, ask));
  } finally {
    context.close();
  }
}

/** What a question costs that nothing is stored for. */
function prefillFirst(bench: Bench): void {
  const { runtime, model, tokens } = bench;
  const ids = randomIds(tokens, model.config.vocabSize, 601);
  const cache = runtime.createDense(tokens);
  try {
    for (let start = 0; start < tokens; start += runtime.sliceTokens) {
      runPieces(runtime.prefill(cache, ids.subarray(start, start + runtime.sliceTokens)));
    }
  } catch (error) {
    cache.close();
    throw error;
  }
  const context = runtime.contextOf(cache);
  try {
    firstToken(bench, context);
  } finally {
    context.close();
  }
}

interface FirstTokenTimes {
  readonly prefillMs: number;
  readonly coldMs: number;
  readonly cachedMs: number;
  readonly hostMs: number;
  readonly residentMs: number;
}

function report({ model, tokens, stored }: Bench, times: FirstTokenTimes): PartReport {
  const { prefillMs, coldMs, cachedMs, hostMs, residentMs } = times;
  const row = (what: string, ms: number): string[] => [
    what,
    ms.toFixed(1),
    `${(prefillMs / ms).toFixed(1)}×`,
  ];
  const format = (value: number): string => `${value.toFixed(1)}×`;
  return {
    title: `${model.name}: time to first token`,
    explanation:
      `A question of ${questionTokens} tokens on a document of ${tokens}, stored at ` +
      `${keptRatio} in ${stored.name}; in the engine's process, without the server. Prefilled: the whole document, ` +
      'uncompressed, then the question.',
    tables: [
      {
        title: 'First token',
        headers: ['the context', 'ms', 'sooner than prefilling'],
        rows: [
          row('prefilled', prefillMs),
          row('on disk, nothing in memory', coldMs),
          row("on disk, in the system's page cache", cachedMs),
          row('in host memory, having given way on the card', hostMs),
          row('in device memory', residentMs),
        ],
      },
    ],
    checks: [
      atLeast(10, { what: 'cold against prefilling', value: prefillMs / coldMs, format }),
      atLeast(30, { what: 'from the host against prefilling', value: prefillMs / hostMs, format }),
    ],
    data: times,
  };
}
