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

/** What the driver says. */
export interface DriverAnswer {
  /** CUDA's version that it supports, 13000 for 13.0; undefined: there is no driver. */
  readonly version?: number | undefined;
  /** What failed first. */
  readonly error?: string | undefined;
  readonly devices: readonly CudaDevice[];
}

/** What the probe's process is asked. */
export interface ProbeQuestion {
  /** Libraries to load, by names that the loader looks for. */
  readonly libraries: readonly string[];
  /** Whether to let ONNX Runtime load its provider. */
  readonly provider: boolean;
}

/** One line of what the process says. */
export type ProbeFinding =
  | { readonly about: 'driver'; readonly driver: DriverAnswer }
  /** A library's name, or `provider`; no error: it could be loaded. */
  | { readonly about: string; readonly error?: string | undefined };

/** What it answers. */
export interface ProbeAnswer {
  readonly driver: DriverAnswer;
  /** By library, and `provider`: what the loader said of those that could not be loaded. */
  readonly failures: Readonly<Record<string, string | undefined>>;
}

/** Drivers take seconds where no other process has a device open. */
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
  const lastLine = stderr?.trim().split('\n').at(-1) ?? '';
  const end = error?.message ?? `it ended with ${signal ?? `status ${status}`}`;
  return readAnswer(question, { lines: stdout ?? '', end: `${end} ${lastLine}`.trim() });
}

/**
 * The answer in what the process wrote. If it ended early, the first thing that it did not get to
 * has ended it, and the rest was not tried.
 */
export function readAnswer(
  { libraries, provider }: ProbeQuestion,
  { lines, end }: { readonly lines: string; readonly end: string },
): ProbeAnswer {
  const findings = new Map<string, ProbeFinding>();
  for (const line of lines.split('\n')) {
    // The last line may be cut off.
    if (!line.endsWith('}')) continue;
    const finding: ProbeFinding = JSON.parse(line);
    findings.set(finding.about, finding);
  }
  let reason = `the process that tried it failed: ${end}`;
  const failureOf = (about: string): string | undefined => {
    const finding = findings.get(about);
    if (finding !== undefined) return 'error' in finding ? finding.error : undefined;
    const first = reason;
    reason = 'not tried, because of what is said above';
    return first;
  };
  const found = findings.get('driver');
  const driver =
    found !== undefined && 'driver' in found
      ? found.driver
      : { error: failureOf('driver'), devices: [] };
  const tried = [...libraries, ...(provider ? ['provider'] : [])];
  return { driver, failures: Object.fromEntries(tried.map((name) => [name, failureOf(name)])) };
}
