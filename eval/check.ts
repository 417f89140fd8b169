import type { Table } from './markdown.ts';

/** A figure beside what it should be. */
export interface Check {
  readonly what: string;
  readonly measured: string;
  readonly target: string;
  readonly passed: boolean;
}

/** What a figure should be. */
export interface Target {
  readonly what: string;
  readonly value: number;
  /** How figure and bound are written. */
  readonly format: (value: number) => string;
}

/** Passes from `bound` upwards. NaN never passes. */
export function atLeast(bound: number, target: Target): Check {
  return check(target, `≥ ${target.format(bound)}`, target.value >= bound);
}

/** Passes up to `bound`. NaN never passes. */
export function atMost(bound: number, target: Target): Check {
  return check(target, `≤ ${target.format(bound)}`, target.value <= bound);
}

/** Passes under `bound`. NaN never passes. */
export function below(bound: number, target: Target): Check {
  return check(target, `< ${target.format(bound)}`, target.value < bound);
}

export function checksTable(checks: readonly Check[]): Table {
  return {
    title: 'Targets',
    headers: ['figure', 'measured', 'target', ''],
    rows: checks.map(({ what, measured, target, passed }) => [
      what,
      measured,
      target,
      passed ? 'pass' : 'MISS',
    ]),
  };
}

function check({ what, value, format }: Target, target: string, passed: boolean): Check {
  return { what, measured: format(value), target, passed };
}
