import { readdirSync, readFileSync } from 'node:fs';
import { statusBytes } from '../eval/engine-process.ts';
import { ReadonceError } from '../src/core/errors.ts';

/** A server and its engine as Linux's `/proc` shows them. Sizes are bytes. */

/** Resident memory at one moment, files that are mapped (the weights) included. */
export interface MemorySample {
  /** Since the watch began. */
  readonly atMs: number;
  readonly serverBytes: number;
  /** NaN while there is no engine. */
  readonly engineBytes: number;
}

export interface MemoryFigures {
  readonly samples: readonly MemorySample[];
  /** Most since the process began, as the kernel knows it. */
  readonly serverPeakBytes: number;
  readonly enginePeakBytes: number;
  /** Of the last sample. */
  readonly serverBytes: number;
  readonly engineBytes: number;
  /** Engines that ended and were started again. */
  readonly restarts: number;
}

export interface ProcessWatch {
  /** What was seen so far, and the memory now. */
  figures(): MemoryFigures;
  /** Idempotent. */
  close(): void;
}

/** Open files and memory of both processes. */
export interface Holdings {
  readonly serverFiles: number;
  readonly engineFiles: number;
  readonly serverBytes: number;
  readonly engineBytes: number;
}

/** @throws ReadonceError `unsupported` without `/proc`, `engine_unavailable` without an engine */
export function holdings(serverPid: number): Holdings {
  const enginePid = findEngine(serverPid);
  if (enginePid === undefined) {
    throw new ReadonceError('engine_unavailable', 'Expected the server to have an engine process.');
  }
  return {
    serverFiles: openFiles(serverPid),
    engineFiles: openFiles(enginePid),
    serverBytes: memory(serverPid, 'VmRSS'),
    engineBytes: memory(enginePid, 'VmRSS'),
  };
}

/** Samples memory until closed. @throws ReadonceError `unsupported` without `/proc` */
export function watchProcesses(serverPid: number, sampleMs: number): ProcessWatch {
  const startMs = performance.now();
  const samples: MemorySample[] = [];
  let enginePid = findEngine(serverPid);
  let restarts = 0;
  let enginePeakBytes = 0;
  let serverPeakBytes = 0;
  const sample = (): void => {
    const seen = findEngine(serverPid);
    if (seen !== undefined && enginePid !== undefined && seen !== enginePid) restarts++;
    enginePid = seen ?? enginePid;
    const enginePeak = seen === undefined ? Number.NaN : memory(seen, 'VmHWM');
    // A comparison with NaN, of a process that just ended, keeps what there was.
    if (enginePeak > enginePeakBytes) enginePeakBytes = enginePeak;
    const serverPeak = memory(serverPid, 'VmHWM');
    if (serverPeak > serverPeakBytes) serverPeakBytes = serverPeak;
    samples.push({
      atMs: performance.now() - startMs,
      serverBytes: memory(serverPid, 'VmRSS'),
      engineBytes: seen === undefined ? Number.NaN : memory(seen, 'VmRSS'),
    });
  };
  sample();
  const timer = setInterval(sample, sampleMs);
  return {
    figures() {
      sample();
      return {
        samples: [...samples],
        serverPeakBytes,
        enginePeakBytes,
        serverBytes: samples.at(-1)?.serverBytes ?? Number.NaN,
        engineBytes: samples.at(-1)?.engineBytes ?? Number.NaN,
        restarts,
      };
    },
    close: () => clearInterval(timer),
  };
}

function findEngine(serverPid: number): number | undefined {
  return childrenOf(serverPid).find((pid) =>
    /\/engine\/main\.[jt]s/.test(readProc(`${pid}/cmdline`) ?? ''),
  );
}

function childrenOf(pid: number): readonly number[] {
  let pids: readonly number[];
  try {
    pids = readdirSync('/proc').map(Number).filter(Number.isInteger);
  } catch (cause) {
    const message = 'Expected Linux with /proc to watch the memory of server and engine.';
    throw new ReadonceError('unsupported', message, { cause });
  }
  return pids.filter((child) =>
    new RegExp(`^PPid:\\s*${pid}$`, 'm').test(readProc(`${child}/status`) ?? ''),
  );
}

function openFiles(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

function memory(pid: number, field: 'VmRSS' | 'VmHWM'): number {
  return statusBytes(readProc(`${pid}/status`) ?? '', field);
}

/** Undefined when the process has ended. */
function readProc(path: string): string | undefined {
  try {
    return readFileSync(`/proc/${path}`, 'utf8');
  } catch {
    return undefined;
  }
}
