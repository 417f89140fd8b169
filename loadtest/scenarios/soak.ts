import { setTimeout as sleep } from 'node:timers/promises';
import { ingest } from '../../eval/bench-server.ts';
import type { Table } from '../../eval/markdown.ts';
import { formatBytes, formatCount, formatShare } from '../../src/cli/format.ts';
import { asReadonceError } from '../../src/core/errors.ts';
import { askQuietly, contextAsk, type Job } from '../asks.ts';
import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import { secondHalfGrowth, type Growth } from '../linear-fit.ts';
import type { MemorySample } from '../processes.ts';
import type { Scenario, ScenarioSetup } from '../scenario.ts';
import { shortTokens } from '../sizes.ts';
import type { LoadServer } from '../stage.ts';
import { stream } from '../streams.ts';
import { askAgain, documentNumbers, longJobs, shortJobs, usualSubjects } from '../subjects.ts';
import { createTally, type Tally } from '../tally.ts';
import { judge, judgeAllAnswered, judgeRight, loadTargets } from '../targets.ts';
import { visitAll } from '../visitors.ts';

/** Between one new document and the next. */
const ingestPauseMs = 5000;
/** Clients that behave badly, in groups. */
const visitors = { clients: 8, rampMs: 2000, limitMs: 120_000 } as const;
/** Of one load: no more than a day's. */
const maxRequests = 10_000_000;

/** Everything at once, for a long time: memory must be level at the end. */
export const soak: Scenario = (setup) => {
  const { stage, sizes, soakMs, progress } = setup;
  return stage.withServer({ label: 'soak', sampleMs: sizes.soakSampleMs }, async (server) => {
    const { url } = server;
    const subjects = await usualSubjects(server, setup);
    const short = await shortJobs(server, subjects);
    const long = await longJobs(server, subjects);
    progress(`  ${(soakMs / 60_000).toFixed(1)} minutes`);
    const begunMs = server.watch.figures().samples.at(-1)?.atMs ?? 0;
    const ended = AbortSignal.timeout(soakMs);
    const bounds = { ms: soakMs, requests: maxRequests };
    const tallies = { short: createTally(), streams: createTally() };
    const others = { visitors: createTally(), documents: createTally() };
    const { mixedAskers, mixedStreams } = sizes;
    const [, , groups, documents] = await Promise.all([
      fire({ url, clients: mixedAskers, jobs: short, bounds, tally: tallies.short }),
      stream({ url, clients: mixedStreams, jobs: long, bounds, tally: tallies.streams }),
      visitInGroups(url, [...short, ...long], others.visitors, ended),
      readDocuments(server, setup, others.documents, ended),
    ]);
    await untilIdle(url);
    const samples = server.watch.figures().samples.filter(({ atMs }) => atMs >= begunMs);
    const patient = [
      tallies.short.figures({ name: 'soak, short', clients: mixedAskers }),
      tallies.streams.figures({ name: 'soak, streams', clients: mixedStreams }),
      others.documents.figures({ name: 'soak, new documents', clients: 1 }),
      await askAgain(server, [...short, ...long], 'soak, afterwards in quiet'),
    ];
    const fickle = others.visitors.figures({ name: 'soak, visitors', clients: visitors.clients });
    const growth = growthOf(samples);
    return {
      explanation:
        `${(soakMs / 60_000).toFixed(1)} minutes of ${mixedAskers} clients with short questions, ` +
        `${mixedStreams} streams of 64 tokens, ${formatCount(groups)} groups of ` +
        `${visitors.clients} clients as in *clients*, and ${formatCount(documents)} new documents ` +
        'that were put, asked about twice and deleted. Growth is that of a line fitted to the ' +
        'second half of the samples of resident memory.',
      phases: [...patient, fickle],
      tables: [memoryTable(samples, growth)],
      musts: [...judgeAllAnswered('soak', patient), ...judgeRight('soak, visitors', [fickle])],
      targets: [
        judge(loadTargets.soakServer, growth.server.share),
        judge(loadTargets.soakEngine, growth.engine.share),
      ],
      memory: samples,
    };
  });
};

/** Groups of clients that come and go, one after another; resolves with how many. */
async function visitInGroups(
  url: string,
  jobs: readonly Job[],
  tally: Tally,
  ended: AbortSignal,
): Promise<number> {
  let groups = 0;
  while (!ended.aborted) {
    groups++;
    await visitAll({ url, jobs, tally, seed: groups * visitors.clients, ...visitors });
  }
  return groups;
}

/** New documents: put, asked the same twice, deleted; resolves with how many. */
async function readDocuments(
  { client, url }: LoadServer,
  { stage, sizes }: ScenarioSetup,
  tally: Tally,
  ended: AbortSignal,
): Promise<number> {
  let documents = 0;
  while (!ended.aborted) {
    const number = documentNumbers.soak + documents++;
    const { document, questions } = stage.texts.document({
      number,
      tokens: sizes.soakIngestTokens,
    });
    try {
      const { id } = await ingest(client, { document });
      const query = questions[0]?.question ?? '';
      const ask = contextAsk({ contextId: id, query, maxTokens: shortTokens });
      const jobs = await askQuietly(url, [ask]);
      const bounds = { ms: visitors.limitMs, requests: tally.requests() + 1 };
      await fire({ url, clients: 1, jobs, bounds, tally });
      await client.delete(id);
    } catch (error) {
      tally.failed(asReadonceError(error).code);
    }
    if (!ended.aborted) await sleep(ingestPauseMs);
  }
  return documents;
}

interface MemoryGrowth {
  readonly server: Growth;
  readonly engine: Growth;
}

function growthOf(samples: readonly MemorySample[]): MemoryGrowth {
  return {
    server: secondHalfGrowth(samples.map((one) => ({ x: one.atMs, y: one.serverBytes }))),
    engine: secondHalfGrowth(samples.map((one) => ({ x: one.atMs, y: one.engineBytes }))),
  };
}

function memoryTable(samples: readonly MemorySample[], growth: MemoryGrowth): Table {
  const [first] = samples;
  const last = samples.at(-1);
  const row = (name: string, field: 'serverBytes' | 'engineBytes', { growth, ...half }: Growth) => [
    name,
    formatBytes(first?.[field] ?? Number.NaN),
    formatBytes(last?.[field] ?? Number.NaN),
    formatBytes(half.mean),
    `${growth < 0 ? '−' : ''}${formatBytes(Math.abs(growth))}`,
    formatShare(half.share),
  ];
  return {
    title: `Memory, ${formatCount(samples.length)} samples`,
    headers: ['', 'first', 'last', 'mean of second half', 'its growth', 'as a share'],
    rows: [
      row('server', 'serverBytes', growth.server),
      row('engine', 'engineBytes', growth.engine),
    ],
  };
}
