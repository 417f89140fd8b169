import type { ModelConfig } from '../model/config.ts';
import {
  checksOf,
  chooseDevice,
  deviceLabel,
  type ChosenDevice,
  type DeviceWish,
} from '../runtime/choose-device.ts';
import { describeDevice, type CudaProbe } from '../runtime/cuda/probe.ts';
import type { DoctorCheck } from './doctor-checks.ts';

/** What the doctor found; `readonce doctor --json` prints it. */
export interface DoctorReport {
  /** The configured device can run. */
  readonly ok: boolean;
  /** What any device needs. */
  readonly general: readonly DoctorCheck[];
  /** What CUDA needs; it matters to `auto` and `cuda` only. */
  readonly cuda: readonly DoctorCheck[];
  /** All devices of the machine, one description each. */
  readonly cudaDevices: readonly string[];
  readonly device: {
    readonly configured: DeviceWish;
    /** What `auto` would take: `cpu`, or `cuda:0 NVIDIA …`. */
    readonly auto: string;
    /** Why that is the CPU; null if it is not. */
    readonly reason: string | null;
    /** What the configured device is; null if it cannot run. */
    readonly runs: string | null;
  };
}

/** What a report is made from. */
export interface DoctorFindings {
  readonly wish: DeviceWish;
  readonly general: readonly DoctorCheck[];
  readonly probe: CudaProbe;
  /** Of the configured model, if it is here. */
  readonly model?: ModelConfig | undefined;
}

/** Judges what was found. */
export function makeReport({ wish, general, probe, model }: DoctorFindings): DoctorReport {
  const cuda = checksOf(probe, wish.deviceIndex, model);
  const auto = chooseDevice({ ...wish, device: 'auto' }, () => probe, model);
  const canRun = general.every(({ ok }) => ok);
  const chosen = chosenFor(wish, auto);
  const runs = canRun && chosen !== undefined ? deviceLabel(chosen) : null;
  const reason = auto.device === 'cpu' ? (auto.reason ?? null) : null;
  return {
    ok: runs !== null,
    general,
    cuda,
    cudaDevices: probe.devices.map(describeDevice),
    device: { configured: wish, auto: deviceLabel(auto), reason, runs },
  };
}

function chosenFor({ device }: DeviceWish, auto: ChosenDevice): ChosenDevice | undefined {
  if (device === 'cpu') return { device: 'cpu' };
  return device === 'cuda' && auto.device === 'cpu' ? undefined : auto;
}

/** The report as text: a line for each check, its fix below it, then the verdict. */
export function describeReport(report: DoctorReport): string {
  const { general, cuda, cudaDevices, device } = report;
  const width = Math.max(...[...general, ...cuda].map(({ name }) => name.length));
  const linesOf = (checks: readonly DoctorCheck[]): readonly string[] =>
    checks.flatMap((check) => checkLines(check, width));
  const devices = cudaDevices.map((line) => `  ${line}`);
  const reason = device.reason === null ? '' : ` (${device.reason})`;
  const { device: configured, deviceIndex } = device.configured;
  const name = configured === 'cuda' ? `cuda, index ${deviceIndex}` : configured;
  const verdict = device.runs === null ? 'it cannot run' : `it runs on ${device.runs}`;
  return [
    'Needed by any device',
    ...linesOf(general),
    '',
    'Needed by CUDA',
    ...linesOf(cuda),
    '',
    ...(devices.length > 1 ? ['CUDA devices', ...devices, ''] : []),
    `Device auto takes: ${device.auto}${reason}`,
    `Configured device: ${name}; ${verdict}`,
    '',
  ].join('\n');
}

function checkLines({ name, ok, found, fix }: DoctorCheck, width: number): readonly string[] {
  const first = `  ${ok ? 'ok   ' : 'fails'}  ${name.padEnd(width)}  ${oneLine(found)}`;
  if (fix === undefined) return [first];
  return [first, `${' '.repeat(width + 11)}${fix}`];
}

/** Messages of loaders have line breaks. */
function oneLine(text: string): string {
  return text.trim().replace(/\s*\n\s*/g, ' ');
}
