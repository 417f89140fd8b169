import { setTimeout as sleep } from 'node:timers/promises';
import { atLeast, atMost } from '../../eval/check.ts';
import type { Table } from '../../eval/markdown.ts';
import { formatCount } from '../../src/cli/format.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import type { Scenario, ScenarioSetup } from '../scenario.ts';
import type { LoadServer } from '../stage.ts';
import { askAgain, documentNumbers, shortJobs, usualSubjects } from '../subjects.ts';
import { createTally, refusalCodes, totalOf, type Counts, type PhaseFigures } from '../tally.ts';
import { judgeAllAnswered, judgeRight } from '../targets.ts';

/** Refusals cost a server little, so there are many times more of them than of answers. */
const requestFactor = 10;
const putTokens = 100;
const readyTimeoutMs = 300_000;
const readyPollMs = 200;

/** What became of documents put at once. */
interface Puts {
  readonly accepted: readonly string[];
  readonly refused: Counts;
  readonly errors: Counts;
}

/** Far more than the server takes: it must say so, and be itself again afterwards. */
export const burst: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  const { burstClients: clients, burstPlaces } = sizes;
  const environment = {
    READONCE_MAX_QUEUED_QUERIES: String(burstPlaces),
    READONCE_MAX_QUEUED_INGESTS: String(burstPlaces),
  };
  return stage.withServer({ label: 'burst', environment }, async (server) => {
    const jobs = await shortJobs(server, await usualSubjects(server, setup));
    progress(`  ${clients} clients for ${burstPlaces} places`);
    const tally = createTally();
    const bounds = { ms: sizes.phaseMs, requests: sizes.phaseRequests * requestFactor };
    await fire({ url: server.url, clients, jobs, bounds, tally });
    await untilIdle(server.url);
    const crowd = tally.figures({ name: 'burst', clients, length: 'short' });
    progress(`  ${sizes.burstPuts} documents at once`);
    const puts = await putAtOnce(server, setup);
    const lost = await untilIngested(server, puts.accepted);
    const after = await askAgain(server, jobs, 'burst, afterwards in quiet');
    const format = formatCount;
    return {
      explanation:
        `${clients} clients ask again at once, answered or refused, where ${burstPlaces} queries ` +
        'may run or wait; then new documents are put at once, for as many places. Refusals must ' +
        'be 503 or 429 and say when to come back (Retry-After); nothing else may go wrong.',
      phases: [crowd, after],
      tables: [burstTable(crowd, puts)],
      musts: [
        ...judgeRight('burst', [crowd]),
        ...judgeAllAnswered('burst, afterwards', [after]),
        atLeast(1, { what: 'burst: queries refused', value: totalOf(crowd.refused), format }),
        atLeast(1, { what: 'burst: documents refused', value: totalOf(puts.refused), format }),
        atMost(0, { what: 'burst: documents: errors', value: totalOf(puts.errors), format }),
        atMost(0, { what: 'burst: accepted documents not ready', value: lost, format }),
      ],
      targets: [],
    };
  });
};

/** Puts many new documents in the same moment, without waiting for their ingestion. */
async function putAtOnce(
  { url }: Pick<LoadServer, 'url'>,
  { stage, sizes }: ScenarioSetup,
): Promise<Puts> {
  const accepted: string[] = [];
  const refused = new Map<string, number>();
  const errors = new Map<string, number>();
  const put = async (number: number): Promise<void> => {
    const { document } = stage.texts.document({ number, tokens: putTokens });
    const response = await fetch(new URL('/contexts', url), {
      method: 'PUT',
      headers: { 'content-type': 'application/json', prefer: 'respond-async' },
      body: JSON.stringify({ document }),
    });
    const body: { readonly id?: string; readonly code?: string } = JSON.parse(
      await response.text(),
    );
    if (response.ok && body.id !== undefined) {
      accepted.push(body.id);
      return;
    }
    const code = body.code ?? `status ${response.status}`;
    const counts = refusalCodes.has(code) && response.headers.has('retry-after') ? refused : errors;
    counts.set(code, (counts.get(code) ?? 0) + 1);
  };
  const numbers = Array.from({ length: sizes.burstPuts }, (_, i) => documentNumbers.burst + i);
  await Promise.all(numbers.map(put));
  return {
    accepted,
    refused: Object.fromEntries(refused),
    errors: Object.fromEntries(errors),
  };
}

/** Waits for accepted documents and deletes them; returns how many did not become ready. */
async function untilIngested(
  { client }: Pick<LoadServer, 'client'>,
  ids: readonly string[],
): Promise<number> {
  const deadline = performance.now() + readyTimeoutMs;
  let lost = 0;
  for (const id of ids) {
    let status = 'ingesting';
    while (status === 'ingesting' && performance.now() < deadline) {
      status = await client.get(id).then(
        (context) => context.status,
        (error: unknown) => (error instanceof ReadonceError ? error.code : 'failed'),
      );
      if (status === 'ingesting') await sleep(readyPollMs);
    }
    if (status === 'ready') await client.delete(id);
    else lost++;
  }
  return lost;
}

function burstTable(crowd: PhaseFigures, puts: Puts): Table {
  const list = (counts: Counts): string =>
    Object.entries(counts)
      .map(([code, count]) => `${code} ${formatCount(count)}`)
      .join(', ') || 'none';
  return {
    title: 'Answered and refused',
    headers: ['', 'accepted', 'refused with Retry-After', 'errors'],
    rows: [
      ['queries', formatCount(crowd.answers), list(crowd.refused), list(crowd.errors)],
      ['documents', formatCount(puts.accepted.length), list(puts.refused), list(puts.errors)],
    ],
  };
}
