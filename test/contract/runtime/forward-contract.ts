import { expect, it } from 'vitest';
import { at } from '../../support/naive-decoder.ts';
import { forwardTogether } from '../../support/ragged.ts';
import { cut, emptyRequest, expectClose, tokens } from './subject.ts';
import type { Subject } from './subject.ts';

/** Logits of tokens in a cache without context rows. */
export function forwardContract(subject: () => Subject): void {
  it('reports the layout of its model', () => {
    const { runtime, model } = subject();
    expect(runtime.layout).toEqual({
      layers: model.config.layers,
      kvHeads: model.config.kvHeads,
      group: model.config.queryHeads / model.config.kvHeads,
      headDim: model.config.headDim,
    });
  });

  it('gives the logits of causal attention over tokens in an empty cache', () => {
    const { runtime, naive, tolerances } = subject();
    const ids = tokens(subject(), 24);
    const parts = emptyRequest(runtime);
    const [logits] = forwardTogether(runtime, [{ ...parts, ids, startPosition: 0 }]);
    const expected = at(naive({ ids, startPosition: 0 }).logits, 23);
    expectClose(logits, expected, tolerances.logits);
    expect(parts.tail.length).toBe(24);
  });

  it('gives the same logits token by token, in pieces and at once', () => {
    const { runtime, naive, tolerances } = subject();
    const ids = tokens(subject(), 20);
    const expected = naive({ ids, startPosition: 3 }).logits;
    for (const sizes of [Array.from(ids, () => 1), [7, 12, 1], [20]]) {
      const parts = emptyRequest(runtime);
      let done = 0;
      for (const piece of cut(ids, sizes)) {
        const [logits] = forwardTogether(runtime, [
          { ...parts, ids: piece, startPosition: 3 + done },
        ]);
        done += piece.length;
        expectClose(logits, at(expected, done - 1), tolerances.logits);
      }
    }
  });
}
