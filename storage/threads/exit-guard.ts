import { workerData, type Worker } from 'node:worker_threads';

/*
 * A process that exits ends its threads wherever they are. One that is in a write transaction then
 * never ends: as it tidies up, lmdb-js waits for a lock that the thread holds itself, and so the
 * process never ends either and keeps the lock under which every process writes. Therefore a
 * process that exits waits until none of its threads is in a transaction, and lets none begin one.
 */

/** What a thread's guard says of it. */
const states = { idle: 0, busy: 1, stopped: 2 } as const;

/** Of the threads that this one started: an Int32 each. */
const guards = new Set<Int32Array>();

/** A guard to start a thread with, in its `workerData`, see `guardData`. */
export function newGuard(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT));
}

/** `workerData` of a thread, with its guard. */
export function guardData(data: object, guard: Int32Array): object {
  return { ...data, [guardKey]: guard };
}

/** Makes the process wait for the thread when it exits, see above. */
export function guardThread(worker: Worker, guard: Int32Array): void {
  if (guards.size === 0) process.on('exit', stopThreads);
  guards.add(guard);
  worker.once('exit', () => {
    guards.delete(guard);
    if (guards.size === 0) process.off('exit', stopThreads);
  });
}

/**
 * Runs what must not be ended half-way; in a thread that nobody guards, simply runs it.
 * @throws Error if the process is about to exit
 */
export function uninterrupted<T>(action: () => T): T {
  if (ownGuard === undefined || Atomics.load(ownGuard, 0) === states.busy) return action();
  if (Atomics.compareExchange(ownGuard, 0, states.idle, states.busy) !== states.idle) {
    throw new Error('Expected a process that goes on but it is about to exit');
  }
  try {
    return action();
  } finally {
    Atomics.store(ownGuard, 0, states.idle);
    Atomics.notify(ownGuard, 0);
  }
}

/** No limit to the wait: ending a thread would wait for the same, and then in vain. */
function stopThreads(): void {
  for (const guard of guards) {
    while (Atomics.compareExchange(guard, 0, states.idle, states.stopped) === states.busy) {
      Atomics.wait(guard, 0, states.busy);
    }
  }
}

const guardKey = 'exitGuard';

const ownGuard = guardOf(workerData);

function guardOf(data: unknown): Int32Array | undefined {
  if (typeof data !== 'object' || data === null || !(guardKey in data)) return undefined;
  return data[guardKey] instanceof Int32Array ? data[guardKey] : undefined;
}
