import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ServerProcess } from '../src/cli/server-process.ts';
import { ReadonceError } from '../src/core/errors.ts';

/** The engine of a server, seen from outside; where Linux's `/proc` is, only there. */

const restartPollMs = 20;
const restartTimeoutMs = 60_000;

/** Memory of an engine, bytes. */
export interface EngineMemory {
  /** Most that was resident since the process began, mapped weights included. */
  readonly peakBytes: number;
  /** Resident now, without what is mapped from files: caches, not weights. */
  readonly anonymousBytes: number;
}

/** @throws ReadonceError `unsupported` without `/proc`, `engine_unavailable` without an engine */
export function engineMemory(server: ServerProcess): EngineMemory {
  const status = readFileSync(`/proc/${enginePid(server)}/status`, 'utf8');
  return {
    peakBytes: statusBytes(status, 'VmHWM'),
    anonymousBytes: statusBytes(status, 'RssAnon'),
  };
}

/**
 * Kills the engine and resolves when the server has started another that is ready.
 * @throws ReadonceError `unsupported` without `/proc`, `deadline_exceeded`
 */
export async function restartEngine(server: ServerProcess): Promise<void> {
  const old = enginePid(server);
  process.kill(old, 'SIGKILL');
  const deadline = performance.now() + restartTimeoutMs;
  // Until the server has noticed, it would say that it is ready.
  for (let pid = findEngine(server); pid === undefined || pid === old; pid = findEngine(server)) {
    if (performance.now() > deadline) {
      throw new ReadonceError(
        'deadline_exceeded',
        `Expected the server to start another engine within ${restartTimeoutMs} ms.`,
      );
    }
    await sleep(restartPollMs);
  }
  await server.client.waitReady();
}

/** A field of `/proc/PID/status` that is given in kB. NaN if it is not there. */
export function statusBytes(status: string, field: string): number {
  const match = new RegExp(`^${field}:\\s*(\\d+) kB$`, 'm').exec(status);
  return match === null ? Number.NaN : Number(match[1]) * 1024;
}

function enginePid(server: ServerProcess): number {
  const pid = findEngine(server);
  if (pid !== undefined) return pid;
  throw new ReadonceError('engine_unavailable', 'Expected the server to have an engine process.');
}

function findEngine({ pid }: ServerProcess): number | undefined {
  return processes().find((candidate) => {
    const { parent, command } = describeProcess(candidate);
    return parent === pid && /\/engine\/main\.[jt]s/.test(command);
  });
}

function processes(): readonly number[] {
  try {
    return readdirSync('/proc').map(Number).filter(Number.isInteger);
  } catch (cause) {
    throw new ReadonceError(
      'unsupported',
      'Expected Linux with /proc to watch and restart the engine. ' +
        'Run the other parts with --only quality,reconstruction.',
      { cause },
    );
  }
}

function describeProcess(pid: number): { readonly parent: number; readonly command: string } {
  try {
    const status = readFileSync(`/proc/${pid}/status`, 'utf8');
    const parent = Number(/^PPid:\s*(\d+)$/m.exec(status)?.[1]);
    return { parent, command: readFileSync(`/proc/${pid}/cmdline`, 'utf8') };
  } catch {
    // It ended while the list was read.
    return { parent: 0, command: '' };
  }
}
