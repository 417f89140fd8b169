import { setTimeout as sleep } from 'node:timers/promises';
import type { Table } from '../../eval/markdown.ts';
import { formatBytes, formatCount } from '../../src/cli/format.ts';
import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import { holdings, type Holdings } from '../processes.ts';
import type { Scenario } from '../scenario.ts';
import { askAgain, longJobs, shortJobs, usualSubjects } from '../subjects.ts';
import { createTally, type Counts, type PhaseFigures } from '../tally.ts';
import { judge, judgeAllAnswered, judgeRight, loadTargets } from '../targets.ts';
import { visitAll } from '../visitors.ts';

/** What the engine computes at once by default: all of its places must be there afterwards. */
const placesOfEngine = 16;
/** Longer than the server keeps an idle connection (5 s), with which it holds a file. */
const settleMs = 8000;
/** The first warms up, and a heap that is collected now and then may grow in one of the others. */
const rounds = 3;
const seed = 20_260_101;

/** A crowd that connects, cancels and reads slowly: nothing of it may stay. */
export const clients: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  const { manyClients, manyRampMs: rampMs, manyMs: limitMs } = sizes;
  const environment = {
    // Everybody gets a place: the crowd is to be served, not turned away.
    READONCE_MAX_QUEUED_QUERIES: String(manyClients),
    READONCE_MAX_QUERY_WAIT_MS: String(limitMs),
  };
  return stage.withServer({ label: 'clients', environment }, async (server) => {
    const { url, pid } = server;
    const subjects = await usualSubjects(server, setup);
    const short = await shortJobs(server, subjects);
    const long = await longJobs(server, subjects);
    const jobs = short.flatMap((job, i) => [job, long[i % long.length] ?? job]);
    const settled = async (): Promise<Holdings> => {
      await untilIdle(url);
      await sleep(settleMs);
      return holdings(pid);
    };
    const seen = [await settled()];
    const phases: PhaseFigures[] = [];
    const behaved: Counts[] = [];
    for (let round = 1; round <= rounds; round++) {
      progress(`  round ${round}: ${manyClients} clients`);
      const tally = createTally();
      const clients = manyClients;
      behaved.push(
        await visitAll({ url, clients, rampMs, limitMs, jobs, tally, seed: seed + round * 1e6 }),
      );
      phases.push(tally.figures({ name: `clients, round ${round}`, clients }));
      seen.push(await settled());
    }
    const tally = createTally();
    const bounds = { ms: sizes.phaseMs, requests: jobs.length };
    await fire({ url, clients: placesOfEngine, jobs, bounds, tally });
    await untilIdle(url);
    const after = [
      tally.figures({ name: 'clients, afterwards', clients: placesOfEngine }),
      await askAgain(server, [...short, ...long], 'clients, afterwards in quiet'),
    ];
    return {
      explanation:
        `${rounds} rounds of ${manyClients} clients, each with a connection of its own, that read to the ` +
        'end, read slowly, leave at once, while waiting or in the answer, or never send all of ' +
        'their request. Places, open files and memory are looked at when nobody is left; the first ' +
        'round warms up, those after it must leave nothing behind.',
      phases: [...phases, ...after],
      tables: [behaviourTable(behaved), holdingsTable(seen)],
      musts: [
        ...judgeRight('clients', phases),
        ...judgeAllAnswered('clients, afterwards', after),
        ...judgeFiles(seen),
      ],
      targets: judgeMemory(seen),
    };
  });
};

/** What every round after the first left: that which only one of them did is no leak. */
function grown(seen: readonly Holdings[], what: keyof Holdings): number {
  const held = seen.slice(1).map((holding) => holding[what]);
  return Math.min(...held.slice(1).map((amount, i) => amount - (held[i] ?? Number.NaN)));
}

function judgeFiles(seen: readonly Holdings[]) {
  return [
    judge(loadTargets.serverFiles, grown(seen, 'serverFiles')),
    judge(loadTargets.engineFiles, grown(seen, 'engineFiles')),
  ];
}

function judgeMemory(seen: readonly Holdings[]) {
  return [
    judge(loadTargets.serverMemory, grown(seen, 'serverBytes')),
    judge(loadTargets.engineMemory, grown(seen, 'engineBytes')),
  ];
}

function behaviourTable(rounds: readonly Counts[]): Table {
  const names = [...new Set(rounds.flatMap((counts) => Object.keys(counts)))].sort();
  return {
    title: 'How clients behaved',
    headers: ['', ...rounds.map((_, i) => `round ${i + 1}`)],
    rows: names.map((name) =>
      [name].concat(rounds.map((counts) => formatCount(counts[name] ?? 0))),
    ),
  };
}

function holdingsTable(seen: readonly Holdings[]): Table {
  return {
    title: 'What the processes hold when nobody is there',
    headers: ['', 'server: files', 'memory', 'engine: files', 'memory'],
    rows: seen.map(({ serverFiles, serverBytes, engineFiles, engineBytes }, i) => [
      i === 0 ? 'before' : `after round ${i}`,
      formatCount(serverFiles),
      formatBytes(serverBytes),
      formatCount(engineFiles),
      formatBytes(engineBytes),
    ]),
  };
}
