import { spawnSync } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';

/** A device as the driver describes it. */
export interface CudaDevice {
  readonly index: number;
  readonly name: string;
  /** `9.0` */
  readonly computeCapability: string;
  readonly memoryBytes: number;
}

/** What the probe's process is asked. */
export interface ProbeQuestion {
  /** Libraries to load, in this order: paths, or names that the loader looks for. */
  readonly files: readonly string[];
}

/** What it answers. */
export interface ProbeAnswer {
  readonly driver: {
    /** CUDA's version that the driver supports, 13000 for 13.0; undefined: there is no driver. */
    readonly version?: number | undefined;
    /** What failed first. */
    readonly error?: string | undefined;
    readonly devices: readonly CudaDevice[];
  };
  /** By file, what the loader said of those that could not be loaded. */
  readonly failures: Readonly<Record<string, string | undefined>>;
}

/** Drivers have been seen to take seconds where no other process has a device open. */
const timeoutMs = 60_000;

/** Asks driver and loader in a process of its own, which takes 0.1 to some seconds. */
export function askNative(question: ProbeQuestion): ProbeAnswer {
  const extension = extname(fileURLToPath(import.meta.url));
  const entry = fileURLToPath(new URL(`./probe-process${extension}`, import.meta.url));
  const loader = extension === '.ts' ? ['--import', 'tsx'] : [];
  const { stdout, stderr, status, signal, error } = spawnSync(
    process.execPath,
    [...loader, entry, JSON.stringify(question)],
    { encoding: 'utf8', timeout: timeoutMs },
  );
  if (error === undefined && status === 0) return JSON.parse(stdout) as ProbeAnswer;
  const end = error?.message ?? `ended with ${signal ?? `status ${status}`}`;
  const lastLine = stderr.trim().split('\n').at(-1) ?? '';
  const reason = `the process that asked the driver ${end} ${lastLine}`.trim();
  const failures = Object.fromEntries(question.files.map((file) => [file, reason]));
  return { driver: { error: reason, devices: [] }, failures };
}
