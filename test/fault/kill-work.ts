import { setTimeout as delay } from 'node:timers/promises';
import type { Random } from '../../src/core/random.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type { ReadonceClient } from '../../src/client/client.ts';
import type { Context, QueryRequest } from '../../src/client/types.ts';
import { listAll, pick, type Promised, type Usage, type Violation } from './ledger.ts';

/** What the work passes through; a kill may be aimed at any of it. */
export const workPhases = ['prefill', 'score', 'persist', 'delete', 'answer', 'change'] as const;

/** A word of `workPhases`. */
export type WorkPhase = (typeof workPhases)[number];

/** A client that does random things until it is stopped or the server is gone. */
export interface Worker {
  readonly client: ReadonceClient;
  readonly promises: readonly Promised[];
  readonly random: Random;
  /** Called as requests go through their phases. */
  readonly onPhase: (phase: WorkPhase) => void;
  readonly report: (kind: Violation['kind'], detail: string) => void;
  /** An answer was compared. */
  readonly onAnswer: () => void;
  readonly stopped: AbortSignal;
}

/** How a request ended: answered, refused in a way that is right, or lost with the process. */
type Outcome<T> =
  | { readonly kind: 'done'; readonly value: T }
  | { readonly kind: 'refused'; readonly code: string }
  | { readonly kind: 'lost' };

/** Longest wait between a PUT and the DELETE that stops it. */
const longestHeadStartMs = 200;

/** Runs until `stopped` aborts or an answer was lost. */
export async function work(worker: Worker): Promise<void> {
  while (!worker.stopped.aborted) {
    const promised = pick(worker.promises, worker.random);
    const alive = promised.busy ? await read(worker, promised) : await act(worker, promised);
    if (!alive) return;
  }
}

/** @returns false if the server did not answer */
function act(worker: Worker, promised: Promised): Promise<boolean> {
  const dice = worker.random.next();
  if (promised.presence !== 'present') {
    if (dice < 0.65) return write(promised, () => put(worker, promised));
    if (dice < 0.8) return write(promised, () => putTwice(worker, promised));
    if (dice < 0.9) return write(promised, () => putAndDelete(worker, promised));
    return read(worker, promised);
  }
  if (dice < 0.15) return write(promised, () => remove(worker, promised));
  if (dice < 0.25) return write(promised, () => change(worker, promised));
  if (dice < 0.32) return write(promised, () => put(worker, promised));
  if (dice < 0.36) return write(promised, () => putAndDelete(worker, promised));
  return read(worker, promised);
}

/** One request at a time writes a context, so that what may be expected stays exact. */
async function write(promised: Promised, action: () => Promise<boolean>): Promise<boolean> {
  promised.busy = true;
  promised.writes++;
  try {
    return await action();
  } finally {
    promised.busy = false;
  }
}

async function put(worker: Worker, promised: Promised): Promise<boolean> {
  const usage = randomUsage(worker.random);
  expectPerhaps(promised, usage);
  const outcome = await sendPut(worker, promised, usage, []);
  if (outcome.kind === 'done') settle(worker, promised, usage, outcome.value);
  return outcome.kind === 'done';
}

/** Two at once: only one may compute. */
async function putTwice(worker: Worker, promised: Promised): Promise<boolean> {
  const usage = randomUsage(worker.random);
  expectPerhaps(promised, usage);
  const outcomes = await Promise.all([
    sendPut(worker, promised, usage, []),
    sendPut(worker, promised, usage, []),
  ]);
  const contexts = outcomes.flatMap((outcome) => (outcome.kind === 'done' ? outcome.value : []));
  for (const context of contexts) settle(worker, promised, usage, context);
  if (contexts.filter(({ reused }) => !reused).length > 1) {
    worker.report('error', `${promised.recipe.name} was computed twice at once`);
  }
  return contexts.length === outcomes.length;
}

async function putAndDelete(worker: Worker, promised: Promised): Promise<boolean> {
  const wasPresent = promised.presence === 'present';
  const usage = randomUsage(worker.random);
  expectPerhaps(promised, usage);
  const putting = sendPut(worker, promised, usage, ['conflict', 'not_found']);
  await delay(worker.random.next() * longestHeadStartMs);
  const deleted = await sendDelete(worker, promised, ['not_found']);
  const added = await putting;
  if (deleted.kind === 'lost' || added.kind === 'lost') return false;
  if (deleted.kind === 'refused') {
    if (wasPresent) worker.report('lost', `${promised.recipe.name} was not there to be deleted`);
    if (added.kind === 'done') settle(worker, promised, usage, added.value);
  } else if (added.kind === 'refused') {
    promised.presence = 'absent';
  }
  return true;
}

async function remove(worker: Worker, promised: Promised): Promise<boolean> {
  promised.presence = 'unknown';
  const outcome = await sendDelete(worker, promised, []);
  if (outcome.kind === 'done') promised.presence = 'absent';
  return outcome.kind === 'done';
}

async function change(worker: Worker, promised: Promised): Promise<boolean> {
  const next = randomUsage(worker.random);
  const parts = worker.random.nextUint32();
  const changed: Partial<Usage> = {
    step: next.step,
    ...(parts % 2 === 0 ? { pinned: next.pinned } : {}),
    ...(parts % 3 === 0 ? { expires: next.expires } : {}),
  };
  const [before] = promised.usages;
  if (before === undefined) return true;
  const after = { ...before, ...changed };
  promised.usages = [before, after];
  worker.onPhase('change');
  const body = {
    labels: { step: next.step },
    ...(changed.pinned === undefined ? {} : { pinned: changed.pinned }),
    ...(changed.expires === undefined ? {} : { ttlSeconds: secondsOf(changed.expires) }),
  };
  const outcome = await attempt(worker, promised, [], () => worker.client.patch(promised.id, body));
  if (outcome.kind === 'done') promised.usages = [after];
  return outcome.kind === 'done';
}

/** Asks, streams and leaves, or lists. Strict where no request was writing meanwhile. */
async function read(worker: Worker, promised: Promised): Promise<boolean> {
  const dice = worker.random.next();
  if (dice < 0.15) return list(worker);
  const { presence, busy, writes } = promised;
  const isQuiet = (): boolean => !busy && promised.writes === writes;
  const { request, answer } = pick(promised.expected, worker.random);
  const outcome = await attempt(worker, promised, ['not_found', 'conflict'], async () => {
    if (dice < 0.3) return leaveEarly(worker, promised.id, request);
    worker.onPhase('answer');
    return (await worker.client.query(promised.id, request)).answer;
  });
  if (outcome.kind === 'lost') return false;
  const { name } = promised.recipe;
  if (outcome.kind === 'refused' && isQuiet() && presence === 'present') {
    worker.report('lost', `${name} gave ${outcome.code} although it was ready`);
  }
  if (outcome.kind === 'done' && isQuiet() && presence === 'absent') {
    worker.report('came back', `${name} answered although it was deleted`);
  }
  if (outcome.kind === 'done' && outcome.value !== undefined) {
    worker.onAnswer();
    if (outcome.value !== answer) worker.report('wrong answer', `${name}: ${outcome.value}`);
  }
  return true;
}

/** Streams, and goes away at the first token. */
async function leaveEarly(
  { client, onPhase }: Worker,
  id: string,
  request: QueryRequest,
): Promise<undefined> {
  const events = client.stream(id, request);
  await events.next();
  onPhase('answer');
  await events.return(undefined);
}

async function list(worker: Worker): Promise<boolean> {
  const before = worker.promises.map(({ presence, busy, writes }) => ({ presence, busy, writes }));
  const outcome = await attempt(worker, undefined, [], () => listAll(worker.client));
  if (outcome.kind !== 'done') return outcome.kind !== 'lost';
  const listed = new Set(outcome.value.map(({ id }) => id));
  for (const [i, promised] of worker.promises.entries()) {
    const was = before[i];
    const quiet = was?.busy === false && was.writes === promised.writes;
    const { name } = promised.recipe;
    const isThere = listed.delete(promised.id);
    if (quiet && was.presence === 'present' && !isThere) worker.report('lost', `${name}, listing`);
    if (quiet && was.presence === 'absent' && isThere) worker.report('came back', name);
  }
  for (const id of listed) worker.report('stranger', id);
  return true;
}

function sendPut(
  { client, random, onPhase, ...worker }: Worker,
  promised: Promised,
  usage: Usage,
  refusals: readonly string[],
): Promise<Outcome<Context>> {
  const { put: document } = promised.recipe;
  const request = {
    ...document,
    labels: { step: usage.step },
    pinned: usage.pinned,
    ttlSeconds: secondsOf(usage.expires),
  };
  const followed = random.next() < 0.7;
  const options = followed
    ? { onProgress: ({ phase }: { readonly phase: WorkPhase }) => onPhase(phase) }
    : {};
  return attempt(worker, promised, refusals, () => client.put(request, options));
}

function sendDelete(
  worker: Worker,
  promised: Promised,
  refusals: readonly string[],
): Promise<Outcome<void>> {
  return attempt(worker, promised, refusals, () => {
    worker.onPhase('delete');
    return worker.client.delete(promised.id);
  });
}

/** Sorts out how a request ended; what is neither expected nor the kill's doing is reported. */
async function attempt<T>(
  { report }: Pick<Worker, 'report'>,
  promised: Promised | undefined,
  refusals: readonly string[],
  send: () => Promise<T>,
): Promise<Outcome<T>> {
  try {
    return { kind: 'done', value: await send() };
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    const { code, message } = error;
    if (code === 'engine_unavailable') return { kind: 'lost' };
    if (refusals.includes(code)) return { kind: 'refused', code };
    report('error', `${promised?.recipe.name ?? 'list'}: ${code}: ${message}`);
    return { kind: 'lost' };
  }
}

/** From when a PUT is sent the context may be there, as it was or as the PUT says. */
function expectPerhaps(promised: Promised, usage: Usage): void {
  const before = promised.presence === 'absent' ? [] : promised.usages;
  promised.presence = 'unknown';
  promised.usages = [...before, usage];
}

function settle(worker: Worker, promised: Promised, usage: Usage, context: Context): void {
  promised.presence = 'present';
  promised.usages = [usage];
  const { id, recipe } = promised;
  if (context.id !== id) worker.report('stranger', `${recipe.name} became ${context.id}`);
  if (context.status !== 'ready') worker.report('error', `${recipe.name} is ${context.status}`);
}

function randomUsage(random: Random): Usage {
  const bits = random.nextUint32();
  return { step: String(bits), pinned: bits % 2 === 0, expires: bits % 3 === 0 };
}

/** Far longer than a test, or never. */
function secondsOf(expires: boolean): number | null {
  return expires ? 86_400 : null;
}
