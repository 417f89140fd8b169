import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));
const native = join(root, 'native');
const columns = 100;
const longestFile = 400;

function read(name: string): string {
  return readFileSync(join(native, name), 'utf8');
}

const sources = readdirSync(native).filter((name) => /\.cuh?$/.test(name));
const families = sources.filter((name) => name.endsWith('.cu') && name !== 'kernels.cu');

describe('CUDA kernels', () => {
  it.each(families)('are built and documented: %s', (name) => {
    expect(read('kernels.cu')).toContain(`#include "${name}"`);
    expect(read('README.md')).toContain(`\`${name}\``);
  });

  it.each(sources)('keep to the columns and length of the house: %s', (name) => {
    const lines = read(name).split('\n');
    expect(lines.filter((line) => line.length > columns)).toEqual([]);
    expect(lines.length).toBeLessThanOrEqual(longestFile + 1);
  });

  it('say what is missing where there is no compiler', () => {
    const { status, stderr } = spawnSync('/bin/bash', [join(native, 'build.sh')], {
      encoding: 'utf8',
      env: { PATH: '' },
    });
    expect(status).toBe(1);
    expect(stderr).toMatch(/^Expected nvcc.* but found none\.\n.*build:native/);
  });
});
