import { argmax } from '../core/argmax.ts';
import { assert } from '../core/assert.ts';
import type { Logits } from './runtime.ts';

/** Logits in host memory, `[vocabSize]`, which must not be written any more. */
export function floatLogits(values: Float32Array): Logits {
  return {
    argmax: () => {
      const id = argmax(values);
      assert(
        Number.isFinite(values[id]),
        `expected finite logits but the largest is ${values[id]}`,
      );
      return id;
    },
    values: () => values,
  };
}
