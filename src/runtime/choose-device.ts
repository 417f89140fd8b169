import { ReadonceError } from '../core/errors.ts';
import type { ModelConfig } from '../model/config.ts';
import { memoryCheck, modelCheck, requireKernels } from './cuda/model-check.ts';
import { deviceCheck, type CudaCheck, type CudaProbe } from './cuda/probe.ts';

/** What a configuration may ask for. */
export type WantedDevice = 'auto' | 'cpu' | 'cuda';

/** What is wanted. */
export interface DeviceWish {
  readonly device: WantedDevice;
  /** Which CUDA device; nothing for the CPU. */
  readonly deviceIndex: number;
}

/** The device that a model runs on. */
export type ChosenDevice =
  | {
      readonly device: 'cpu';
      /** Why `auto` did not take CUDA. */
      readonly reason?: string;
    }
  | {
      readonly device: 'cuda';
      readonly index: number;
      /** The driver's name for it. */
      readonly name: string;
    };

/** An error names as many checks; `readonce doctor` names all. */
const namedChecks = 3;

/**
 * All checks that must pass for a CUDA device.
 * @param model what is known of the model that is to run on it
 */
export function checksOf(
  probe: CudaProbe,
  deviceIndex: number,
  model?: ModelConfig,
): readonly CudaCheck[] {
  const [platform] = probe.checks;
  // Where CUDA cannot be, a device is not missing.
  if (platform?.ok === false) return probe.checks;
  const ofModel = model === undefined ? [] : [modelCheck(model)];
  const device = probe.devices[deviceIndex];
  if (model !== undefined && device !== undefined) ofModel.push(memoryCheck(model, device));
  return [...probe.checks, deviceCheck(probe, deviceIndex), ...ofModel];
}

/**
 * Chooses a device. `auto` takes CUDA if every check passes, else the CPU; `cuda` never falls back.
 * @param probe is not called for `cpu`
 * @param model if it is known yet; else see `deviceForModel`
 * @throws ReadonceError `engine_unavailable` if `cuda` is wanted and a check fails
 */
export function chooseDevice(
  wish: DeviceWish,
  probe: () => CudaProbe,
  model?: ModelConfig,
): ChosenDevice {
  if (wish.device === 'cpu') return { device: 'cpu' };
  const index = wish.deviceIndex;
  const probed = probe();
  const failed = checksOf(probed, index, model).filter(({ ok }) => !ok);
  const device = probed.devices[index];
  if (failed.length === 0 && device !== undefined) {
    return { device: 'cuda', index, name: device.name };
  }
  const named = failed.slice(0, wish.device === 'auto' ? 1 : namedChecks);
  const reason = named.map(({ name, found }) => `${name}: ${found}`).join('; ');
  if (wish.device === 'auto') return { device: 'cpu', reason };
  throw new ReadonceError(
    'engine_unavailable',
    `Expected everything that device cuda needs but got ${reason}. ` +
      'Run "readonce doctor", which says how to mend it, or use --device cpu.',
  );
}

/**
 * What a model runs on, when a device was chosen before the model was known: `auto` takes the CPU
 * for one that CUDA has no kernels for.
 * @throws ReadonceError `unsupported` for such a model if `cuda` is wanted
 */
export function deviceForModel(
  chosen: ChosenDevice,
  wanted: WantedDevice,
  model: ModelConfig,
): ChosenDevice {
  if (chosen.device === 'cpu') return chosen;
  const { name, ok, found } = modelCheck(model);
  if (ok) return chosen;
  if (wanted === 'cuda') requireKernels(model);
  return { device: 'cpu', reason: `${name}: ${found}` };
}

/** As a service tells it: `cpu`, or `cuda:0 NVIDIA H100 80GB HBM3`. */
export function deviceLabel(chosen: ChosenDevice): string {
  return chosen.device === 'cpu' ? 'cpu' : `cuda:${chosen.index} ${chosen.name}`;
}
