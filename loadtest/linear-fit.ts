import { assert } from '../src/core/assert.ts';

export interface Point {
  readonly x: number;
  readonly y: number;
}

/** A straight line: `y = at0 + slope * x`. */
export interface Line {
  readonly slope: number;
  readonly at0: number;
}

/** The line with the least squared vertical distance; level if all points have one x. */
export function linearFit(points: readonly Point[]): Line {
  assert(points.length > 0, 'expected at least one point for a line');
  const meanX = mean(points.map(({ x }) => x));
  const meanY = mean(points.map(({ y }) => y));
  const spread = points.reduce((sum, { x }) => sum + (x - meanX) ** 2, 0);
  const product = points.reduce((sum, { x, y }) => sum + (x - meanX) * (y - meanY), 0);
  const slope = spread === 0 ? 0 : product / spread;
  return { slope, at0: meanY - slope * meanX };
}

/** How the second half of a series grew. */
export interface Growth {
  /** Of the fitted line, over the half. */
  readonly growth: number;
  readonly mean: number;
  /** `growth` as a share of `mean`. */
  readonly share: number;
}

/**
 * Fits a line to the points in the second half of the range of x: what grew while a program warmed
 * up is not counted.
 */
export function secondHalfGrowth(points: readonly Point[]): Growth {
  const xs = points.map(({ x }) => x);
  const middle = (Math.min(...xs) + Math.max(...xs)) / 2;
  const half = points.filter(({ x }) => x >= middle);
  const halfXs = half.map(({ x }) => x);
  const growth = linearFit(half).slope * (Math.max(...halfXs) - Math.min(...halfXs));
  const average = mean(half.map(({ y }) => y));
  return { growth, mean: average, share: growth / average };
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
