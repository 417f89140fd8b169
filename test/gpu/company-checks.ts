import type { ContextCache, ForwardSlot, Runtime } from '../../src/runtime/runtime.ts';
import { check } from './compare.ts';

/** Two contexts of one document, and its tokens. */
export interface CompanyChecks {
  readonly cuda: Runtime;
  readonly contexts: readonly [ContextCache, ContextCache];
  readonly ids: Int32Array;
}

const questions = 40;
const steps = 6;
const groups = [questions, 17, 5, 1] as const;

/**
 * Logits have the same bits whoever else is computed: of first tokens and of steps, on one context
 * and on several, by any number at once.
 */
export function checkCompany(checks: CompanyChecks): void {
  const [together, ...others] = groups.map((size) => logitsInGroups(checks, size));
  for (const [i, logits] of others.entries()) {
    const differing = logits.filter((each, at) => !each.equals(together?.[at] as Buffer)).length;
    check(
      `${questions} at once as ${groups[i + 1]} at once`,
      differing === 0,
      `${differing} of ${logits.length} logits differ`,
    );
  }
}

/** Each question's logits after its tokens, and after each of some steps. */
function logitsInGroups({ cuda, contexts, ids }: CompanyChecks, size: number): readonly Buffer[] {
  const found: Buffer[] = [];
  for (let first = 0; first < questions; first += size) {
    const asked = Array.from({ length: Math.min(size, questions - first) }, (_, i) => first + i);
    const views = contexts.map((context) => context.view(context.lengths));
    const slots = asked.map((i) => ({
      context: views[i % 3 === 0 ? 1 : 0] as (typeof views)[0],
      tail: cuda.createTail(),
      startPosition: ids.length,
    }));
    const forward = (tokens: (i: number) => Int32Array): void => {
      const now = slots.map((slot, at): ForwardSlot => ({
        ...slot,
        ids: tokens(asked[at] as number),
        startPosition: slot.startPosition + slot.tail.length,
      }));
      for (const [at, logits] of cuda.forward(now).entries()) {
        const { buffer, byteOffset, byteLength } = logits.values();
        found[(asked[at] as number) * (steps + 1) + step] = Buffer.from(
          buffer.slice(byteOffset, byteOffset + byteLength),
        );
      }
    };
    let step = 0;
    forward((i) => ids.subarray(5 * i, 5 * i + 2 + ((i * 17) % 60)));
    for (step = 1; step <= steps; step++) {
      forward((i) => ids.subarray(7 * i + step, 7 * i + step + 1));
    }
    for (const { tail } of slots) tail.close();
    for (const view of views) view.close();
  }
  return found;
}
