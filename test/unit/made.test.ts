import { describe, expect, it } from 'vitest';
import { Made } from '../../src/core/made.ts';

/** Parts that say when they are closed; those named in `failing` fail. */
function parts(made: Made, ...failing: readonly number[]): readonly number[] {
  const closed: number[] = [];
  for (const part of [1, 2, 3]) {
    made.add({
      close: () => {
        closed.push(part);
        if (failing.includes(part)) throw new Error(`part ${part}`);
      },
    });
  }
  return closed;
}

describe('parts of an owner', () => {
  it('are closed once, the last one first', () => {
    const made = new Made();
    const closed = parts(made);
    made.close();
    made.close();
    expect(closed).toEqual([3, 2, 1]);
  });

  it('are closed though others fail, and the first failure is told', () => {
    const made = new Made();
    const closed = parts(made, 3, 1);
    expect(() => made.close()).toThrow('part 3');
    expect(closed).toEqual([3, 2, 1]);
    expect(() => made.close()).not.toThrow();
  });

  it('are given up without a word of their own', () => {
    const made = new Made();
    const closed = parts(made, 2);
    made.abandon();
    expect(closed).toEqual([3, 2, 1]);
  });
});
