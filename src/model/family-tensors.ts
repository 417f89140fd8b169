import { defined } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';
import type { ModelConfig } from './config.ts';
import type { ModelFamily } from './families/family.ts';
import { families } from './families/registry.ts';
import type { SourceTensor } from './source.ts';

/** The family that a config names. */
export function familyOf(config: ModelConfig): ModelFamily {
  const family = families.find(({ name }) => name === config.family);
  return defined(family, `the family ${config.family}`);
}

/**
 * The tensors that the config's family needs, in its order, out of those a checkpoint has.
 * @param found by Hugging Face name
 * @throws ReadonceError `invalid_argument` if one is missing or has another shape, `unsupported` if
 * there are others whose part in the computation is not known
 */
export function selectTensors<T extends { readonly shape: readonly number[] }>(
  config: ModelConfig,
  found: ReadonlyMap<string, T>,
  toTensor: (entry: T, name: string) => SourceTensor,
): readonly SourceTensor[] {
  const family = familyOf(config);
  const shapes = family.tensorShapes(config);
  for (const name of found.keys()) {
    if (shapes.has(name) || family.isRedundant(name, config)) continue;
    throw new ReadonceError(
      'unsupported',
      `Expected only tensors of a ${family.name} model with this config but got ${name}`,
    );
  }
  return Array.from(shapes, ([name, shape]) => {
    const entry = found.get(name);
    if (entry === undefined) {
      throw new ReadonceError(
        'invalid_argument',
        `Expected a tensor ${name} [${shape.join(', ')}] in the checkpoint but got none`,
      );
    }
    if (entry.shape.join() !== shape.join()) {
      throw new ReadonceError(
        'invalid_argument',
        `Expected [${shape.join(', ')}] for the shape of ${name} but got [${entry.shape.join(', ')}]`,
      );
    }
    return toTensor(entry, name);
  });
}
