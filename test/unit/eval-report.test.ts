import { describe, expect, it } from 'vitest';
import { atLeast, atMost, below, checksTable } from '../../eval/check.ts';
import { machineLine } from '../../eval/machine.ts';
import { markdownTable } from '../../eval/markdown.ts';
import { median } from '../../eval/median.ts';

const target = (value: number) => ({ what: 'speed', value, format: (n: number) => `${n} ×` });

describe('a target', () => {
  it('passes at its bound, unless it must stay below', () => {
    expect(atLeast(10, target(10)).passed).toBe(true);
    expect(atLeast(10, target(9.99)).passed).toBe(false);
    expect(atMost(3.5, target(3.5)).passed).toBe(true);
    expect(atMost(3.5, target(3.51)).passed).toBe(false);
    expect(below(0.5, target(0.49)).passed).toBe(true);
    expect(below(0.5, target(0.5)).passed).toBe(false);
  });

  it('is missed by a figure that could not be measured', () => {
    const checks = [atLeast, atMost, below].map((compare) => compare(1, target(Number.NaN)));
    expect(checks.map(({ passed }) => passed)).toEqual([false, false, false]);
  });

  it('is shown beside its figure', () => {
    const { rows } = checksTable([atLeast(10, target(12)), atMost(3.5, target(4))]);
    expect(rows).toEqual([
      ['speed', '12 ×', '≥ 10 ×', 'pass'],
      ['speed', '4 ×', '≤ 3.5 ×', 'MISS'],
    ]);
  });
});

describe('a markdown table', () => {
  it('has a title, a rule under its headers, and escaped bars', () => {
    const table = { title: 'T', headers: ['a', 'b'], rows: [['x|y', '2']] };
    expect(markdownTable(table)).toBe('**T**\n\n| a | b |\n| --- | --- |\n| x\\|y | 2 |\n');
  });

  it('refuses a row of another length than its headers', () => {
    const table = { title: 'T', headers: ['a', 'b'], rows: [['x']] };
    expect(() => markdownTable(table)).toThrow(/2 cells but got 1/);
  });
});

describe('the median', () => {
  it.each([
    [[7], 7],
    [[9, 1, 5], 5],
    [[10, 9, 1, 2], 5.5],
  ])('of %j is %d', (values, expected) => {
    expect(median(values)).toBe(expected);
  });

  it('does not exist of nothing', () => {
    expect(() => median([])).toThrow(/at least one value/);
  });
});

describe('the machine', () => {
  it('is one line with the day, not the hour', () => {
    const machine = {
      cpu: 'A CPU',
      cores: 2,
      memoryBytes: 8e9,
      platform: 'linux x64',
      node: 'v20.19.0',
      date: '2025-03-04T05:06:07.000Z',
    };
    expect(machineLine(machine)).toBe(
      'A CPU, 2 cores, 8.0 GB of memory, linux x64, Node v20.19.0, 2025-03-04',
    );
  });
});
