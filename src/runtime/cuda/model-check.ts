import { ReadonceError } from '../../core/errors.ts';
import { kvLayout, type ModelConfig } from '../../model/config.ts';
import { familyOf } from '../../model/family-tensors.ts';
import { headDims } from './kernel-shapes.ts';
import type { CudaDevice } from './probe-native.ts';
import type { CudaCheck } from './probe.ts';
import { mostUnitQueries, mostUnitRows } from './units.ts';

/** What the LM head's kernel reads of a row at once. */
const headInputs = 32;

/** Whether there are kernels for a model's shape. */
export function modelCheck(config: ModelConfig): CudaCheck {
  const name = 'model-kernels';
  const { headDim, hiddenSize } = config;
  const layout = kvLayout(config);
  const wrong: string[] = [];
  if (!headDims.some((each) => each === headDim)) {
    wrong.push(`heads of ${headDim} elements, not ${headDims.join(' or ')}`);
  }
  if (hiddenSize % headInputs !== 0) {
    wrong.push(`a hidden size of ${hiddenSize}, no multiple of ${headInputs}`);
  }
  if (mostUnitQueries(layout) === 0) {
    wrong.push(`${layout.group} query heads for a KV head, more than ${mostUnitRows}`);
  }
  if (wrong.length === 0) {
    return { name, ok: true, found: `heads of ${headDim}, groups of ${layout.group}` };
  }
  const fix = 'Use --device cpu, which runs every model, or another model.';
  return { name, ok: false, found: `the model has ${wrong.join(', and ')}`, fix };
}

/**
 * Whether a device's memory holds a model's weights, if nobody else has any of it. What is free is
 * not known before they are put there.
 */
export function memoryCheck(config: ModelConfig, { memoryBytes }: CudaDevice): CudaCheck {
  const name = 'model-memory';
  const needed = weightsBytes(config);
  const [weights, memory] = [needed, memoryBytes].map((bytes) => `${(bytes / 1e9).toFixed(1)} GB`);
  const found = `weights of ${weights}, the device has ${memory}`;
  if (needed < memoryBytes) return { name, ok: true, found };
  const fix = 'Use --device cpu, a smaller model or a larger card.';
  return { name, ok: false, found, fix };
}

/** As the device holds them, two bytes a number, with the tables of rotary angles. */
function weightsBytes(config: ModelConfig): number {
  const shapes = [...familyOf(config).tensorShapes(config).values()];
  const weights = shapes.map((shape) => shape.reduce((product, length) => product * length, 1));
  const angles = config.contextLength * config.headDim;
  return 2 * weights.reduce((sum, count) => sum + count, angles);
}

/** @throws ReadonceError `unsupported`, saying what of the model there is no kernel for */
export function requireKernels(config: ModelConfig): void {
  const { ok, found } = modelCheck(config);
  if (ok) return;
  throw new ReadonceError(
    'unsupported',
    `Expected a model that there are kernels for on a GPU but ${found}: use --device cpu, or ` +
      'another model',
  );
}
