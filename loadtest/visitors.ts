import { request as httpRequest } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { createRandom, type Random } from '../src/core/random.ts';
import type { Job } from './asks.ts';
import { createFeed } from './load.ts';
import { countStream, streamOnce, type StreamResult } from './streams.ts';
import type { Counts, Tally } from './tally.ts';

/** Clients that come once and behave as people's programs do: impatient, slow, or broken. */

/** One visit to the server. */
interface Visit {
  readonly url: string;
  readonly job: Job;
  readonly random: Random;
  /** Ends the visit when the round has taken too long. */
  readonly deadline: AbortSignal;
}

interface Behaviour {
  readonly name: string;
  /** Of all clients; all shares add up to one. */
  readonly share: number;
  visit(visit: Visit): Promise<StreamResult>;
}

/** Longest pause of a slow reader before each read. */
const slowReadMs = 200;
/** Within this, a client is gone before its question is. */
const atOnceMs = 30;
const impatientMs = 5000;
const stuckMs = 3000;
const deafMs = 20_000;
const fewPieces = 20;

const behaviours: readonly Behaviour[] = [
  {
    name: 'reads to the end',
    share: 0.25,
    visit: ({ url, job, deadline }) => streamOnce(url, job, { signal: deadline }),
  },
  {
    name: 'reads slowly',
    share: 0.25,
    visit: ({ url, job, random, deadline }) =>
      streamOnce(url, job, { signal: deadline, pauseMs: () => random.next() * slowReadMs }),
  },
  {
    name: 'leaves at once',
    share: 0.15,
    visit: (visit) => leaveWithin(visit, atOnceMs),
  },
  {
    name: 'leaves while waiting',
    share: 0.15,
    visit: (visit) => leaveWithin(visit, impatientMs),
  },
  {
    name: 'leaves in the answer',
    share: 0.15,
    visit: ({ url, job, random, deadline }) => {
      const leaveAfter = 1 + Math.floor(random.next() * fewPieces);
      return streamOnce(url, job, { signal: deadline, leaveAfter });
    },
  },
  { name: 'never sends all of its request', share: 0.03, visit: sendHalf },
  { name: 'stops reading', share: 0.02, visit: stopReading },
];

/** A crowd of clients, each of which comes once. */
export interface Crowd {
  readonly url: string;
  readonly clients: number;
  /** All have come after so long; when each comes is random. */
  readonly rampMs: number;
  /** Whoever is not done by then counts as an error. */
  readonly limitMs: number;
  readonly jobs: readonly Job[];
  readonly tally: Tally;
  /** Makes a crowd reproducible, as far as the server's speed lets it be. */
  readonly seed: number;
}

/** Lets a crowd come and go; resolves with how many behaved in which way. */
export async function visitAll(crowd: Crowd): Promise<Counts> {
  const { url, tally } = crowd;
  const deadline = AbortSignal.timeout(crowd.limitMs);
  const next = createFeed(crowd.jobs);
  const counts: Record<string, number> = {};
  const come = async (number: number): Promise<void> => {
    const random = createRandom(crowd.seed + number);
    const behaviour = choose(random);
    counts[behaviour.name] = (counts[behaviour.name] ?? 0) + 1;
    await sleep(random.next() * crowd.rampMs);
    const job = next();
    // A signal of its own: a thousand listeners on one would look like a leak.
    const own = AbortSignal.any([deadline]);
    const result = await behaviour.visit({ url, job, random, deadline: own });
    if (result.kind === 'left' && deadline.aborted) tally.failed('not done in time');
    else countStream(tally, job, result);
  };
  await Promise.all(Array.from({ length: crowd.clients }, (_, i) => come(i)));
  return counts;
}

function choose(random: Random): Behaviour {
  let left = random.next();
  const chosen = behaviours.find(({ share }) => (left -= share) < 0);
  return chosen ?? (behaviours[0] as Behaviour);
}

function leaveWithin({ url, job, random, deadline }: Visit, ms: number): Promise<StreamResult> {
  const patience = AbortSignal.timeout(Math.ceil(random.next() * ms));
  return streamOnce(url, job, { signal: AbortSignal.any([deadline, patience]) });
}

/**
 * Asks for what no socket's buffer holds, a whole context as a file, reads nothing of it, and goes
 * away after a while: answers are too short to make a server wait for its client.
 */
async function stopReading({ url, job, random, deadline }: Visit): Promise<StreamResult> {
  const path = job.path.replace(/\/query$/, '/export');
  const request = httpRequest(new URL(path, url), { agent: false });
  request.on('error', () => undefined);
  // Without a reader, what comes stays where it is.
  request.on('response', (response) => response.pause());
  request.end();
  const pause = sleep(random.next() * deafMs, undefined, { signal: deadline });
  await pause.catch(() => undefined);
  request.destroy();
  return { kind: 'left' };
}

/** Announces a body, sends half of it, and goes away after a while. */
async function sendHalf({ url, job, random }: Visit): Promise<StreamResult> {
  const body = Buffer.from(JSON.stringify(job.body));
  const request = httpRequest(new URL(job.path, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'content-length': body.byteLength },
    agent: false,
  });
  request.on('error', () => undefined);
  request.write(body.subarray(0, Math.floor(body.byteLength / 2)));
  await sleep(random.next() * stuckMs);
  request.destroy();
  return { kind: 'left' };
}
