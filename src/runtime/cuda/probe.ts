import { existsSync } from 'node:fs';
import { ortVersion } from '../ort/api.ts';
import { cudaLibraries, libraryFix } from './libraries.ts';
import {
  askNative,
  type CudaDevice,
  type ProbeAnswer,
  type ProbeQuestion,
} from './probe-native.ts';
import { kernelsAreOld } from './kernel-sources.ts';
import { findProvider, kernelsPath, providerFolder, type ProviderFiles } from './provider-files.ts';

/** Something that a CUDA device needs. */
export interface CudaCheck {
  /** `driver`, `provider`, … or a library's file: stable, for programs. */
  readonly name: string;
  readonly ok: boolean;
  /** What there is, or what is wrong with it. */
  readonly found: string;
  /** If it is not ok: a sentence that says what to do, with the command. */
  readonly fix?: string;
}

/** What a machine has for CUDA. */
export interface CudaProbe {
  /** Everything but the device itself (`deviceCheck`). */
  readonly checks: readonly CudaCheck[];
  readonly devices: readonly CudaDevice[];
}

/** What is looked at; tests give answers of their own. */
export interface CudaProbeSources {
  readonly platform: string;
  readonly arch: string;
  findProvider(): ProviderFiles;
  /** Path of the kernels; undefined if they are not built. */
  findKernels(): string | undefined;
  /** Whether they were built of other sources than there are. */
  kernelsAreOld(): boolean;
  askNative(question: ProbeQuestion): ProbeAnswer;
}

/** How to probe. */
export interface CudaProbeOptions {
  /** Ends with the first check that fails, cheap ones first; default: makes all. */
  readonly stopEarly?: boolean;
  readonly sources?: CudaProbeSources;
}

/** CUDA version that the provider needs: that of drivers from 580 on. */
const leastDriver = { version: 13_000, title: '580' } as const;
/** The oldest cards that our kernels are compiled for. */
const leastCapability = 8;

const machine: CudaProbeSources = {
  platform: process.platform,
  arch: process.arch,
  findProvider: () => findProvider(providerFolder()),
  findKernels: () => (existsSync(kernelsPath()) ? kernelsPath() : undefined),
  kernelsAreOld,
  askNative,
};

/**
 * Looks at what CUDA needs: platform, provider, kernels, driver, libraries. It makes no
 * context and leaves nothing loaded; libraries and driver are tried in another process, which takes
 * 0.1 to some seconds.
 */
export function probeCuda(options: CudaProbeOptions = {}): CudaProbe {
  const { stopEarly = false, sources = machine } = options;
  const checks = [platformCheck(sources)];
  const isWrong = (): boolean => checks.some(({ ok }) => !ok);
  // Elsewhere none of the rest can be mended.
  if (isWrong()) return { checks, devices: [] };
  for (const check of [providerCheck, kernelsCheck]) {
    checks.push(check(sources));
    if (stopEarly && isWrong()) return { checks, devices: [] };
  }
  const provider = checks.some(({ name, ok }) => name === 'provider' && ok);
  const answer = sources.askNative({ libraries: cudaLibraries.map(({ file }) => file), provider });
  checks.push(driverCheck(answer), ...checksOfLibraries(answer));
  if (provider) checks.push(loadingCheck(answer));
  return { checks, devices: answer.driver.devices };
}

/** Whether the device of an index is there and new enough. */
export function deviceCheck({ devices }: CudaProbe, index: number): CudaCheck {
  const name = 'device';
  const device = devices[index];
  if (device === undefined) {
    const found = `no device ${index}; there are ${devices.length}`;
    const fix =
      devices.length === 0
        ? 'Mend what is said above, then look with "nvidia-smi -L".'
        : `Choose another with --device-index: 0 to ${devices.length - 1}.`;
    return { name, ok: false, found, fix };
  }
  const found = describeDevice(device);
  if (Number.parseFloat(device.computeCapability) >= leastCapability) {
    return { name, ok: true, found };
  }
  const fix = `Use a card of compute capability ${leastCapability}.0 or above, or --device cpu.`;
  return { name, ok: false, found, fix };
}

/** `cuda:0 NVIDIA H100, compute capability 9.0, 85.0 GB` */
export function describeDevice(device: CudaDevice): string {
  const { index, name, computeCapability, memoryBytes } = device;
  const memory = `${(memoryBytes / 1e9).toFixed(1)} GB`;
  return `cuda:${index} ${name}, compute capability ${computeCapability}, ${memory}`;
}

function platformCheck({ platform, arch }: CudaProbeSources): CudaCheck {
  const found = `${platform} ${arch}`;
  if (platform === 'linux' && arch === 'x64') return { name: 'platform', ok: true, found };
  const fix = 'ONNX Runtime has a CUDA provider for linux x64 only: use --device cpu here.';
  return { name: 'platform', ok: false, found, fix };
}

function providerCheck(sources: CudaProbeSources): CudaCheck {
  const name = 'provider';
  const fix = 'Run "npm run setup:cuda", which fetches it and puts it there.';
  const { folder, missing, matches } = sources.findProvider();
  if (missing.length > 0) {
    return { name, ok: false, found: `no ${missing.join(' and no ')} in ${folder}`, fix };
  }
  if (matches) return { name, ok: true, found: `${ortVersion} in ${folder}` };
  return { name, ok: false, found: `in ${folder}, but not for ONNX Runtime ${ortVersion}`, fix };
}

function kernelsCheck(sources: CudaProbeSources): CudaCheck {
  const name = 'kernels';
  const path = sources.findKernels();
  const fix = 'Run "npm run build:native", which needs nvcc of the CUDA toolkit 13.';
  if (path !== undefined) {
    if (!sources.kernelsAreOld()) return { name, ok: true, found: path };
    return { name, ok: false, found: `${path}, built of other sources than these`, fix };
  }
  return { name, ok: false, found: 'not built', fix };
}

function driverCheck({ driver }: ProbeAnswer): CudaCheck {
  const name = 'driver';
  const { version, error } = driver;
  const install =
    `Install NVIDIA's driver ${leastDriver.title} or newer (docs/cuda.md); a container must be ` +
    'given the device ("docker run --gpus all").';
  if (version === undefined) return { name, ok: false, found: error ?? 'none', fix: install };
  const text = `for CUDA ${Math.floor(version / 1000)}.${Math.floor((version % 1000) / 10)}`;
  if (version < leastDriver.version) {
    return { name, ok: false, found: `${text}, older than 13.0`, fix: install };
  }
  if (error === undefined) return { name, ok: true, found: text };
  const fix = 'See what "nvidia-smi" says, and the system log with "dmesg".';
  return { name, ok: false, found: `${text}; ${error}`, fix };
}

function checksOfLibraries({ failures }: ProbeAnswer): readonly CudaCheck[] {
  return cudaLibraries.map((library) => {
    const { file } = library;
    const error = failures[file];
    if (error === undefined) return { name: file, ok: true, found: 'can be loaded' };
    return { name: file, ok: false, found: error, fix: libraryFix(library) };
  });
}

/** Whether ONNX Runtime takes the provider, with everything that it links to. */
function loadingCheck({ failures }: ProbeAnswer): CudaCheck {
  const name = 'loading';
  const error = failures['provider'];
  if (error === undefined) return { name, ok: true, found: 'ONNX Runtime loads the provider' };
  const fix = 'Mend what is said above; if nothing is, run "npm ci" and "npm run setup:cuda".';
  return { name, ok: false, found: error, fix };
}
