import { describe, expect, it } from 'vitest';
import { rightPredictions } from '../../eval/parts/reconstruction.ts';

describe('the accuracy of a reconstruction pass', () => {
  const ids = Int32Array.of(7, 8, 9, 10, 11, 12);

  it('counts each chunk token that the token before it predicted', () => {
    const predictions = [8, 9, 10, 11, 12, 99];
    expect(rightPredictions({ ids, predictions, promptTokens: 2 })).toBe(4);
  });

  it('counts the first chunk token, which the last of the prompt predicts', () => {
    const predictions = [0, 9, 0, 0, 0, 0];
    expect(rightPredictions({ ids, predictions, promptTokens: 2 })).toBe(1);
  });

  it('counts neither the prompt nor what is predicted behind the chunk', () => {
    const predictions = [8, 0, 0, 0, 0, 12];
    expect(rightPredictions({ ids, predictions, promptTokens: 2 })).toBe(0);
  });
});
