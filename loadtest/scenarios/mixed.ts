import { ingest } from '../../eval/bench-server.ts';
import type { Table } from '../../eval/markdown.ts';
import { formatCount, formatMs } from '../../src/cli/format.ts';
import type { Context } from '../../src/client/types.ts';
import type { Job } from '../asks.ts';
import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import type { Bounds } from '../load.ts';
import { largest, percentiles } from '../percentiles.ts';
import type { Scenario, ScenarioSetup } from '../scenario.ts';
import type { LoadServer } from '../stage.ts';
import { stream } from '../streams.ts';
import { documentNumbers, longJobs, shortJobs, usualSubjects } from '../subjects.ts';
import { createTally, type PhaseFigures } from '../tally.ts';
import { judge, judgeAllAnswered, loadTargets } from '../targets.ts';

/** A stretch of time, `performance.now`. */
interface Stretch {
  readonly fromMs: number;
  readonly toMs: number;
}

/** An ingestion, and when it went on. */
interface Ingestion extends Stretch {
  readonly context: Context;
}

interface MixedJobs {
  readonly short: readonly Job[];
  readonly long: readonly Job[];
}

/** Longest that the ingestions of a phase may take together. */
const ingestingMs = 900_000;

/** Answers that go on while large documents are read. */
export const mixed: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  return stage.withServer({ label: 'mixed' }, async (server) => {
    const subjects = await usualSubjects(server, setup);
    const jobs = {
      short: await shortJobs(server, subjects),
      long: await longJobs(server, subjects),
    };
    progress('  quiet');
    const { phaseMs: ms, phaseRequests: requests } = sizes;
    const quiet = await answerMeanwhile(server, setup, jobs, { name: 'quiet', ms, requests });
    progress('  ingesting');
    const ingested = new AbortController();
    const busy = answerMeanwhile(server, setup, jobs, {
      name: 'ingesting',
      ms: ingestingMs,
      requests: Number.POSITIVE_INFINITY,
      signal: ingested.signal,
    });
    const ingestions = await ingestAll(server, setup).finally(() => ingested.abort());
    const during = await busy;
    const quietGaps = quiet.gaps.map(lengthMs);
    const busyGaps = during.gaps.filter((gap) => ingestions.some(overlaps(gap))).map(lengthMs);
    const phases = [...quiet.phases, ...during.phases];
    return {
      explanation:
        `${sizes.mixedStreams} clients stream answers of 64 tokens and ${sizes.mixedAskers} ask ` +
        'short questions, first alone, then while new documents are read one after another. A gap ' +
        'counts as one while ingesting if the two overlap.',
      phases,
      tables: [gapTable({ quietGaps, busyGaps }), ingestionTable(ingestions)],
      musts: judgeAllAnswered('mixed', phases),
      targets: [
        judge(loadTargets.mixedGap, percentiles(busyGaps).p95 / percentiles(quietGaps).p95),
      ],
    };
  });
};

/** Streams and short questions at the same time, with every gap of the streams. */
async function answerMeanwhile(
  { url }: LoadServer,
  { sizes }: ScenarioSetup,
  { short, long }: MixedJobs,
  { name, ...bounds }: Bounds & { readonly name: string },
): Promise<{ readonly phases: readonly PhaseFigures[]; readonly gaps: readonly Stretch[] }> {
  const gaps: Stretch[] = [];
  const onAnswer = (pieceTimesMs: readonly number[]): void => {
    for (const [i, toMs] of pieceTimesMs.entries()) {
      if (i > 0) gaps.push({ fromMs: pieceTimesMs[i - 1] ?? toMs, toMs });
    }
  };
  const streamed = createTally();
  const asked = createTally();
  const { mixedStreams, mixedAskers } = sizes;
  const streams = { url, clients: mixedStreams, jobs: long, bounds, tally: streamed };
  await Promise.all([
    stream(streams, { onAnswer, letFinish: true }),
    fire({ url, clients: mixedAskers, jobs: short, bounds, tally: asked }),
  ]);
  await untilIdle(url);
  const phases = [
    streamed.figures({ name: `mixed, ${name}, streams`, clients: mixedStreams, length: 'long' }),
    asked.figures({ name: `mixed, ${name}, short`, clients: mixedAskers, length: 'short' }),
  ];
  return { phases, gaps };
}

async function ingestAll(
  { client }: LoadServer,
  { stage, sizes }: ScenarioSetup,
): Promise<readonly Ingestion[]> {
  const ingestions: Ingestion[] = [];
  for (let i = 0; i < sizes.ingests; i++) {
    const number = documentNumbers.ingest + i;
    const { document } = stage.texts.document({ number, tokens: sizes.ingestTokens });
    const fromMs = performance.now();
    const context = await ingest(client, { document });
    ingestions.push({ context, fromMs, toMs: performance.now() });
    // The next run on this store must read it anew.
    await client.delete(context.id);
  }
  return ingestions;
}

function lengthMs({ fromMs, toMs }: Stretch): number {
  return toMs - fromMs;
}

function overlaps(one: Stretch): (other: Stretch) => boolean {
  return (other) => one.fromMs < other.toMs && other.fromMs < one.toMs;
}

function gapTable(gaps: {
  readonly quietGaps: readonly number[];
  readonly busyGaps: readonly number[];
}): Table {
  const row = (name: string, gapsMs: readonly number[]): readonly string[] => {
    const { p50, p95, p99 } = percentiles(gapsMs);
    const figures = [p50, p95, p99, largest(gapsMs)].map(formatMs);
    return [name, formatCount(gapsMs.length), ...figures];
  };
  return {
    title: 'Gaps between streamed tokens',
    headers: ['', 'gaps', 'p50', 'p95', 'p99', 'worst'],
    rows: [row('quiet', gaps.quietGaps), row('while ingesting', gaps.busyGaps)],
  };
}

function ingestionTable(ingestions: readonly Ingestion[]): Table {
  return {
    title: 'Ingestions beside it',
    headers: ['tokens', 'took', 'prefill', 'scores', 'persisting'],
    rows: ingestions.map(({ context: { document, timings }, ...stretch }) => [
      formatCount(document.tokens),
      formatMs(lengthMs(stretch)),
      formatMs(timings.prefillMs),
      formatMs(timings.scoreMs),
      formatMs(timings.persistMs),
    ]),
  };
}
