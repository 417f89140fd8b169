import { availableParallelism } from 'node:os';
import { ReadonceError } from '../core/errors.ts';
import { Made } from '../core/made.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ModelConfig } from '../model/config.ts';
import { loadCheckpoint } from '../model/load.ts';
import type { Logger } from '../observability/logger.ts';
import type { ChosenDevice } from '../runtime/choose-device.ts';
import { createRuntime } from '../runtime/create-runtime.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { fitDevice, pickDevice } from './pick-device.ts';
import type { EngineOptions } from './protocol.ts';

/** A model, and the device that is to run it. */
export interface PlacedModel {
  readonly checkpoint: Checkpoint;
  readonly device: ChosenDevice;
}

/** A model that runs. Its runtime is the caller's to close. */
export interface RunningModel extends PlacedModel {
  readonly runtime: Runtime;
  /** Memory for loaded contexts, bytes: as configured, or what the runtime chose. */
  readonly poolBytes: number;
}

/** What models are started with. */
export interface ModelParts {
  readonly options: EngineOptions;
  readonly logger: Logger;
  /** For tests; default `createRuntime`. */
  readonly create?: typeof createRuntime;
}

/**
 * Reads the model, for the device that is wanted or, by `auto`, for one that has kernels for it.
 * @throws ReadonceError of the device or the model
 */
export async function placeModel({ options, logger }: ModelParts): Promise<PlacedModel> {
  let device = pickDevice(options, logger);
  const checkpoint = await load({ options, logger }, (config) => {
    device = fitDevice(device, { config, options, logger });
    return device.device === 'cuda';
  });
  return { checkpoint, device };
}

/**
 * Starts the runtime of a model. By `auto` it is the CPU's if the GPU has no memory for the model.
 * @throws ReadonceError of the runtime
 */
export async function startModel(placed: PlacedModel, parts: ModelParts): Promise<RunningModel> {
  const { options, logger } = parts;
  try {
    return await start(placed, parts);
  } catch (error) {
    const mayFallBack = options.device === 'auto' && placed.device.device === 'cuda';
    if (!mayFallBack || !(error instanceof ReadonceError)) throw error;
    if (error.code !== 'out_of_memory') throw error;
    const reason = error.message;
    logger.warn({ device: 'cpu', reason }, 'no memory for this model on the GPU');
    // The weights may have been left as only a GPU takes them.
    const checkpoint = await load(parts, () => false);
    return start({ checkpoint, device: { device: 'cpu', reason } }, parts);
  }
}

async function start(
  { checkpoint, device }: PlacedModel,
  { options, create = createRuntime }: ModelParts,
): Promise<RunningModel> {
  const made = new Made();
  const runtime = made.add(
    await create(checkpoint, {
      device,
      threads: availableParallelism(),
      poolBytes: options.poolBytes,
      maxRunning: options.maxRunningQueries,
      devicePrecision: options.devicePrecision,
    }),
  );
  try {
    const poolBytes = options.poolBytes > 0 ? options.poolBytes : runtime.defaultPoolBytes();
    runtime.warm();
    return { checkpoint, device, runtime, poolBytes };
  } catch (error) {
    made.abandon();
    throw error;
  }
}

function load(
  { options, logger }: ModelParts,
  keepHalf: (config: ModelConfig) => boolean,
): Promise<Checkpoint> {
  const { model, cacheFolder, decodeWeights } = options;
  return loadCheckpoint({ model, cacheFolder, decodeWeights, keepHalf, log: logger });
}
