import { accessSync, constants, existsSync, statSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { dirname } from 'node:path';
import type { Config } from '../config/schema.ts';
import { ReadonceError } from '../core/errors.ts';
import { outlineModel } from '../model/load.ts';
import type { CudaCheck } from '../runtime/cuda/probe.ts';
import { loadOrt, ortVersion } from '../runtime/ort/api.ts';
import { formatBytes } from './format.ts';

/** Something that a server needs on any device, or a fact about the machine. */
export type DoctorCheck = CudaCheck;

/** Everything that is looked at but CUDA: Node, ONNX Runtime, threads, memory, model, store. */
export async function generalChecks(config: Config): Promise<readonly DoctorCheck[]> {
  return [
    nodeCheck(process.versions.node),
    ortCheck(),
    { name: 'threads', ok: true, found: String(availableParallelism()) },
    {
      name: 'memory',
      ok: true,
      found: `${formatBytes(freemem())} free of ${formatBytes(totalmem())}`,
    },
    await modelCheck(config),
    storeCheck(config.data),
  ];
}

/** Whether a version of Node is new enough; it says so itself only where npm installs. */
export function nodeCheck(version: string): DoctorCheck {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  if (major > 20 || (major === 20 && minor >= 19))
    return { name: 'node', ok: true, found: version };
  const fix = 'Install Node 20.19 or newer, then run "npm ci".';
  return { name: 'node', ok: false, found: version, fix };
}

function ortCheck(): DoctorCheck {
  const name = 'onnxruntime';
  return judge(name, 'Run "npm ci", which brings it.', () => {
    loadOrt();
    return ortVersion;
  });
}

async function modelCheck({ model, cache: cacheFolder }: Config): Promise<DoctorCheck> {
  const name = 'model';
  try {
    const { description, path } = await outlineModel({ model, cacheFolder });
    const where = path ?? 'to be downloaded by the first start';
    return { name, ok: true, found: `${model}: ${description} (${where})` };
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    const fix = 'Name another with --model or READONCE_MODEL (docs/configuration.md).';
    return { name, ok: false, found: error.message, fix };
  }
}

/** Whether the store's folder can be written to, or made; it is neither made nor opened. */
export function storeCheck(folder: string): DoctorCheck {
  const fix = 'Name a folder that you may write to with --data or READONCE_DATA.';
  return judge('store', fix, () => {
    let nearest = folder;
    while (!existsSync(nearest) && dirname(nearest) !== nearest) nearest = dirname(nearest);
    if (!statSync(nearest).isDirectory()) {
      throw new ReadonceError('invalid_argument', `${nearest} is no folder`);
    }
    accessSync(nearest, constants.W_OK | constants.X_OK);
    return nearest === folder ? folder : `${folder}, made by the first start`;
  });
}

function judge(name: string, fix: string, look: () => string): DoctorCheck {
  try {
    return { name, ok: true, found: look() };
  } catch (error) {
    const found = error instanceof Error ? error.message : String(error);
    return { name, ok: false, found, fix };
  }
}
