import { setTimeout as delay } from 'node:timers/promises';
import { createRandom, type Random } from '../../src/core/random.ts';
import {
  countThreadBatches,
  createFaultWorkspace,
  faultTargets,
  killNow,
  startVictim,
  untilGone,
  victimOf,
  withWriterThread,
  type FaultTarget,
  type FaultWorkspace,
  type Victim,
} from './fault-server.ts';
import { checkEverything } from './kill-checks.ts';
import { work, workPhases, type WorkPhase } from './kill-work.ts';
import { listAll, pick, recordPromises, type Promised, type Violation } from './ledger.ts';
import { createRecipes } from './recipes.ts';
import { scanStore } from './store-scan.ts';

/** What a kill test does. */
export interface KillOptions {
  /** Kills; at least 1. */
  readonly rounds: number;
  /** Gives the same targets, moments and requests; the machine decides how they interleave. */
  readonly seed: number;
  /** Contexts that come and go. */
  readonly recipes: number;
  /**
   * The servers that store by the writing thread, of all that are started, 0 to 1: contexts are too
   * small here for it to be used by itself.
   */
  readonly threadShare: number;
  /** Hears of each round. */
  readonly onRound?: (report: KillReport) => void;
}

/** What a kill test did and saw. */
export interface KillReport {
  readonly seed: number;
  rounds: number;
  readonly kills: Record<FaultTarget, number>;
  /** Kills of processes that stored by the writing thread, all at work. */
  threadKills: number;
  /** Batches that writing threads were given. */
  threadBatches: number;
  /** Starts of a server or of its engine after a kill. */
  restarts: number;
  /** Restarts for which nobody waited until the processes before were gone. */
  overlappingRestarts: number;
  /** Kills after which the store held a context that was half-written or half-removed. */
  tornStores: number;
  /** Contexts found after restarts, each looked at whole. */
  contextsChecked: number;
  answersCompared: number;
  /** Pages in use above those of the same store when it was new and everything was deleted. */
  leakedBytes: number;
  /** Size of the data file at the end. */
  fileBytes: number;
  durationMs: number;
  readonly violations: Violation[];
  /** What the servers logged, the last part. */
  log: string;
}

/** Clients that work at once. */
const workers = 4;

/** A kill aimed at no phase comes within this time, and so does one whose phase never comes. */
const longestRoundMs = 1_000;

/** A kill that is aimed at a phase comes at most this long behind it, mostly sooner. */
const longestDelayMs = 15;

/**
 * What kills are aimed at: most often at what writes to the store, and only at that if it has a
 * thread.
 */
const aims: readonly WorkPhase[] = [...workPhases, 'persist', 'persist', 'persist', 'delete'];

/** An engine that dies often is restarted later and later: then it is the server's turn. */
const engineKillsInARow = 2;

/** Characters of the servers' logs that are kept. */
const keptLog = 4_000;

/**
 * Kills a server, its engine or both again and again while clients put, query, change and delete,
 * and checks after every restart that all promises hold.
 */
export async function runKillRounds(options: KillOptions): Promise<KillReport> {
  const startedMs = performance.now();
  const workspace = createFaultWorkspace();
  const run = new KillRun(options, workspace);
  try {
    await run.begin();
    for (let round = 1; round <= options.rounds; round++) {
      await run.round(round);
      run.report.durationMs = performance.now() - startedMs;
      options.onRound?.(run.report);
    }
    await run.finish();
    return run.report;
  } finally {
    await run.close();
    workspace.remove();
  }
}

class KillRun {
  readonly report: KillReport;
  readonly #options: KillOptions;
  readonly #workspace: FaultWorkspace;
  #promises: readonly Promised[] = [];
  #victim: Victim | undefined;
  #round = 0;
  #engineKills = 0;
  #starts = 0;
  #hasThread = false;
  #baselineBytes = 0;

  constructor(options: KillOptions, workspace: FaultWorkspace) {
    this.#options = options;
    this.#workspace = workspace;
    this.report = {
      seed: options.seed,
      rounds: 0,
      kills: { server: 0, engine: 0, both: 0 },
      threadKills: 0,
      threadBatches: 0,
      restarts: 0,
      overlappingRestarts: 0,
      tornStores: 0,
      contextsChecked: 0,
      answersCompared: 0,
      leakedBytes: 0,
      fileBytes: 0,
      durationMs: 0,
      violations: [],
      log: '',
    };
  }

  /** Records the promises in the store that will suffer, and leaves it empty. */
  async begin(): Promise<void> {
    this.#victim = await this.#start();
    const { client } = this.#victim.server;
    this.#promises = await recordPromises(client, createRecipes(this.#options.recipes));
    this.#baselineBytes = (await scanStore(this.#workspace.data)).stats.usedBytes;
  }

  async round(round: number): Promise<void> {
    this.#round = round;
    const victim = this.#victim ?? (await this.#start());
    const random = createRandom(this.#options.seed * 2 ** 20 + round);
    const target = this.#engineKills < engineKillsInARow ? pick(faultTargets, random) : 'server';
    await this.#workUntilKilled(victim, target, random);
    if (this.#hasThread) this.report.threadKills++;
    this.report.threadBatches = countThreadBatches(this.#workspace);
    this.#engineKills = target === 'engine' ? this.#engineKills + 1 : 0;
    this.#victim = await this.#restart(victim, target, random);
    const { contexts } = await this.#check(this.#victim);
    this.report.rounds = round;
    this.report.kills[target]++;
    this.report.restarts++;
    this.report.contextsChecked += contexts;
  }

  /** Deletes everything: the pages in use must be those of the beginning. */
  async finish(): Promise<void> {
    const victim = this.#victim ?? (await this.#start());
    const { client } = victim.server;
    for (const { id } of await listAll(client)) await client.delete(id);
    for (const promised of this.#promises) promised.presence = 'absent';
    const { scan } = await this.#check(victim);
    this.report.leakedBytes = scan.stats.usedBytes - this.#baselineBytes;
    this.report.fileBytes = scan.stats.fileBytes;
  }

  async close(): Promise<void> {
    await this.#victim?.server.stop();
    this.#noteLog(this.#victim);
  }

  /** Starts a server: the share of those with a thread is spread evenly. */
  #start(): Promise<Victim> {
    const { threadShare } = this.#options;
    const wanted = (starts: number): number => Math.floor(starts * threadShare);
    this.#hasThread = wanted(this.#starts + 1) > wanted(this.#starts);
    this.#starts++;
    return startVictim(this.#hasThread ? withWriterThread(this.#workspace) : this.#workspace);
  }

  async #workUntilKilled(victim: Victim, target: FaultTarget, random: Random): Promise<void> {
    const stop = new AbortController();
    const moment = aimAtMoment(random, this.#hasThread ? ['persist'] : aims);
    const working = Array.from({ length: workers }, () =>
      work({
        client: victim.server.client,
        promises: this.#promises,
        random: createRandom(random.nextUint32()),
        onPhase: moment.onPhase,
        report: (kind, detail) => this.#violated(kind, detail),
        onAnswer: () => this.report.answersCompared++,
        stopped: stop.signal,
      }),
    );
    await moment.come;
    killNow(victim, target);
    stop.abort();
    await Promise.all(working);
  }

  /** Half of the servers are started without waiting for the end of those before. */
  async #restart(victim: Victim, target: FaultTarget, random: Random): Promise<Victim> {
    if (target === 'engine') {
      await victim.server.client.waitReady();
      return victimOf(victim.server);
    }
    this.#noteLog(victim);
    const gone = untilGone(victim);
    const overlaps = random.next() < 0.5;
    if (overlaps) {
      this.report.overlappingRestarts++;
    } else {
      await gone;
      const { unfinished } = await scanStore(this.#workspace.data);
      if (unfinished.length > 0) this.report.tornStores++;
    }
    const next = await this.#start();
    await gone;
    return next;
  }

  #check({ server }: Victim): ReturnType<typeof checkEverything> {
    return checkEverything({
      client: server.client,
      workspace: this.#workspace,
      promises: this.#promises,
      report: (kind, detail) => this.#violated(kind, detail),
      onAnswer: () => this.report.answersCompared++,
    });
  }

  #violated(kind: Violation['kind'], detail: string): void {
    this.report.violations.push({ kind, round: this.#round, detail });
  }

  #noteLog(victim: Victim | undefined): void {
    this.report.log = (this.report.log + (victim?.server.stderr() ?? '')).slice(-keptLog);
  }
}

/** A random moment: any time, or shortly after a phase was passed for the first to third time. */
function aimAtMoment(
  random: Random,
  phases: readonly WorkPhase[],
): {
  readonly come: Promise<void>;
  readonly onPhase: (phase: WorkPhase) => void;
} {
  if (random.next() < 0.3) {
    return { come: delay(random.next() * longestRoundMs), onPhase: () => undefined };
  }
  const wanted = pick(phases, random);
  let passes = 1 + (random.nextUint32() % 3);
  const delayMs = random.next() ** 2 * longestDelayMs;
  let passed = (): void => undefined;
  const passing = new Promise<void>((resolve) => {
    passed = resolve;
  });
  return {
    come: Promise.race([passing.then(() => delay(delayMs)), delay(longestRoundMs)]),
    onPhase: (phase) => {
      if (phase !== wanted) return;
      passes--;
      if (passes === 0) passed();
    },
  };
}
