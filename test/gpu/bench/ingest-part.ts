import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { PartReport } from '../../../eval/part.ts';
import type { ScoringPlanInput } from '../../../src/compression/method.ts';
import { resolveMethod } from '../../../src/compression/registry.ts';
import { systemClock } from '../../../src/core/clock.ts';
import type { IngestTimings } from '../../../src/core/context.ts';
import type { TokenizedDocument } from '../../../src/engine/document.ts';
import { ingest } from '../../../src/engine/ingest.ts';
import { Scheduler } from '../../../src/engine/scheduler.ts';
import type { Checkpoint } from '../../../src/model/checkpoint.ts';
import { openContextStore } from '../../../storage/open-store.ts';
import { keptRatio, prefixTokens, type Bench } from './bench.ts';
import { randomIds } from './documents.ts';

/** The first shows what the first of each call costs. */
const ingestions = 2;
const suffixTokens = 8;
/** About what a tokenizer makes of prose. */
const bytesPerToken = 4;

interface Ingestion extends IngestTimings {
  /** What is neither the model's time nor the store's: choosing pairs. */
  readonly chooseMs: number;
}

/** A document read as the engine reads it, from its tokens to the stored context. */
export async function ingestPart(bench: Bench): Promise<PartReport> {
  const { model, tokens, runtime, progress } = bench;
  const folder = mkdtempSync(join(bench.folder, 'ingest-'));
  const store = await openContextStore({ folder });
  const scheduler = new Scheduler({ runtime, clock: systemClock, maxRunning: 1, maxWaitMs: 1000 });
  const measured: Ingestion[] = [];
  try {
    for (let round = 0; round < ingestions; round++) {
      const document = randomDocument(bench, round);
      const { record } = await ingest(
        {
          checkpoint: outlineOf(bench),
          runtime,
          // Nothing else is in memory that could give way.
          loaded: { withRoom: (work) => work() },
          store,
          scheduler,
          clock: systemClock,
          sliceTokens: runtime.sliceTokens,
        },
        {
          request: {
            tenant: '',
            tenantSalt: '',
            document: 'random',
            instructions: undefined,
            compression: document.compression,
            createdAtMs: Date.now(),
            usage: { ttlMs: null, pinned: false, labels: {} },
          },
          document,
          onProgress: () => undefined,
          signal: new AbortController().signal,
        },
      );
      const { prefillMs, scoreMs, persistMs, totalMs } = record.timings;
      const chooseMs = totalMs - prefillMs - scoreMs - persistMs;
      measured.push({ ...record.timings, chooseMs });
      progress(`ingest ${round + 1}: ${totalMs.toFixed(0)} ms, prefill ${prefillMs.toFixed(0)}`);
    }
  } finally {
    scheduler.close();
    await store.close();
    rmSync(folder, { recursive: true, force: true });
  }
  const seconds = (ms: number): string => (ms / 1000).toFixed(2);
  return {
    title: `${model.name}: reading a document`,
    explanation:
      `${tokens} tokens, kvzip at ${keptRatio}, float16: the engine's own ingestion, all layers, ` +
      "into a store on the machine's disk. Prefill and scoring are the runtime's time alone.",
    tables: [
      {
        title: 'Seconds',
        headers: ['', 'prefill', 'scoring', 'scoring / prefill', 'choosing', 'storing', 'all'],
        rows: measured.map((each, i) => [
          i === 0 ? 'the first' : 'again',
          seconds(each.prefillMs),
          seconds(each.scoreMs),
          (each.scoreMs / each.prefillMs).toFixed(2),
          seconds(each.chooseMs),
          seconds(each.persistMs),
          seconds(each.totalMs),
        ]),
      },
    ],
    checks: [],
    data: measured,
  };
}

function randomDocument({ model, runtime, tokens }: Bench, round: number): TokenizedDocument {
  const { vocabSize, contextLength } = model.config;
  const prefixIds = randomIds(prefixTokens, vocabSize, 700);
  const documentIds = randomIds(tokens - prefixTokens, vocabSize, 701 + round);
  const method = resolveMethod('kvzip');
  const plan: ScoringPlanInput = {
    layout: runtime.layout,
    prefixTokens,
    documentIds,
    suffixIds: randomIds(suffixTokens, vocabSize, 710),
    contextLength,
    encode: (text) => randomIds(Math.ceil(text.length / bytesPerToken), vocabSize, text.length),
  };
  return {
    id: `ctx_${String(round).repeat(40)}`,
    family: `fam_${String(round).repeat(40)}`,
    prefixIds,
    documentIds,
    compression: {
      method: 'kvzip',
      keepRatio: keptRatio,
      budget: 'global',
      precision: 'f16',
    },
    method,
    chunkTokens: method.chunkTokens(plan),
    plan,
  };
}

/** An ingestion of a tokenised document only asks what the model is called. */
function outlineOf({ model }: Bench): Checkpoint {
  const outline = { id: model.name, fingerprint: 'sha256:00', config: model.config };
  return outline as Partial<Checkpoint> as Checkpoint;
}
