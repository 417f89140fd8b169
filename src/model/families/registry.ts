import { ReadonceError } from '../../core/errors.ts';
import type { ModelFamily } from './family.ts';
import { llama } from './llama.ts';

/** Every family that is built; graphs and tests go through this list. */
export const families: readonly ModelFamily[] = [llama];

/**
 * The family of `architectures` in config.json.
 * @throws ReadonceError `unsupported`
 */
export function familyOfArchitectures(architectures: readonly string[]): ModelFamily {
  return find(
    (family) => family.architectures.some((name) => architectures.includes(name)),
    families.flatMap((family) => family.architectures),
    architectures.join(', '),
  );
}

/**
 * The family of `general.architecture` in a GGUF file.
 * @throws ReadonceError `unsupported`
 */
export function familyOfGguf(architecture: string): ModelFamily {
  return find(
    (family) => family.ggufArchitectures.includes(architecture),
    families.flatMap((family) => family.ggufArchitectures),
    architecture,
  );
}

function find(
  matches: (family: ModelFamily) => boolean,
  known: readonly string[],
  given: string,
): ModelFamily {
  const family = families.find(matches);
  if (family !== undefined) return family;
  throw new ReadonceError(
    'unsupported',
    `Expected one of ${known.join(', ')} for the model's architecture but got ${given}`,
  );
}
