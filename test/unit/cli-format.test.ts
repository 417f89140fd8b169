import { describe, expect, it } from 'vitest';
import type { Output } from '../../src/cli/command.ts';
import {
  formatBytes,
  formatCount,
  formatMs,
  formatShare,
  formatTable,
} from '../../src/cli/format.ts';
import { createProgressBar, renderProgress } from '../../src/cli/progress.ts';

describe('formats', () => {
  it('bytes in decimal units', () => {
    expect([0, 999, 1000, 1_234_567, 123_456_789, 5e12].map(formatBytes)).toEqual([
      '0 B',
      '999 B',
      '1.0 kB',
      '1.2 MB',
      '123 MB',
      '5.0 TB',
    ]);
  });

  it('durations with the digits that matter', () => {
    expect([0.44, 12.3, 999, 1234.5].map(formatMs)).toEqual([
      '0.4 ms',
      '12 ms',
      '999 ms',
      '1.23 s',
    ]);
  });

  it('counts and shares', () => {
    expect(formatCount(1234567)).toBe('1,234,567');
    expect([0.3, 0.1234, 1].map(formatShare)).toEqual(['30 %', '12.3 %', '100 %']);
  });

  it('tables with columns of equal width and no trailing space', () => {
    expect(
      formatTable([
        ['a', 'bb', ''],
        ['ccc', 'd'],
      ]),
    ).toBe('a    bb\nccc  d\n');
  });
});

describe('progress', () => {
  function record(interactive: boolean): Output & { readonly text: () => string } {
    let text = '';
    const err = (piece: string): void => {
      text += piece;
    };
    return { out: err, err, interactive, text: () => text };
  }

  it('has one width however far it is', () => {
    const lines = [0, 1, 4999, 5000].map((done) =>
      renderProgress({ phase: 'prefill', done, total: 5000 }),
    );
    expect(new Set(lines.map((line) => line.length)).size).toBe(1);
    expect(lines[3]).toContain('100 %');
    expect(lines[2]).toContain(' 99 %');
  });

  it('draws over itself on a terminal and ends its line once', () => {
    const output = record(true);
    const bar = createProgressBar(output);
    bar.update({ phase: 'score', done: 1, total: 2 });
    bar.update({ phase: 'score', done: 2, total: 2 });
    bar.close();
    bar.close();
    expect(output.text().split('\r')).toHaveLength(3);
    expect(output.text().split('\n')).toHaveLength(2);
  });

  it('prints a line for each finished phase elsewhere', () => {
    const output = record(false);
    const bar = createProgressBar(output);
    bar.update({ phase: 'score', done: 1, total: 2 });
    expect(output.text()).toBe('');
    bar.update({ phase: 'score', done: 2, total: 2 });
    bar.close();
    expect(output.text()).toMatch(/^scoring .*100 %.*\n$/);
  });
});
