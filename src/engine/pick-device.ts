import type { ModelConfig } from '../model/config.ts';
import type { Logger } from '../observability/logger.ts';
import {
  chooseDevice,
  deviceForModel,
  deviceLabel,
  type ChosenDevice,
} from '../runtime/choose-device.ts';
import { probeCuda } from '../runtime/cuda/probe.ts';
import type { EngineOptions } from './protocol.ts';

/**
 * The device that is wanted, before the model is known.
 * @throws ReadonceError `engine_unavailable` if it cannot run
 */
export function pickDevice(options: EngineOptions, logger: Logger): ChosenDevice {
  const { device = 'cpu', deviceIndex = 0 } = options;
  const isAuto = device === 'auto';
  const chosen = chooseDevice({ device, deviceIndex }, () => probeCuda({ stopEarly: isAuto }));
  const reason = chosen.device === 'cpu' ? chosen.reason : undefined;
  if (isAuto) logger.info({ device: deviceLabel(chosen), reason }, 'device chosen');
  return chosen;
}

/**
 * The device that runs the model: by `auto` the CPU, if the GPU has no kernels for it.
 * @throws ReadonceError `unsupported` if the device that is wanted has nothing for the model
 */
export function fitDevice(
  picked: ChosenDevice,
  parts: {
    readonly config: ModelConfig;
    readonly options: EngineOptions;
    readonly logger: Logger;
  },
): ChosenDevice {
  const { config, options, logger } = parts;
  const chosen = deviceForModel(picked, options.device ?? 'cpu', config);
  if (chosen !== picked && chosen.device === 'cpu') {
    logger.warn({ device: 'cpu', reason: chosen.reason }, 'no kernels for this model');
  }
  return chosen;
}
