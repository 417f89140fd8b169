import { spawnSync } from 'node:child_process';
import { appendFileSync, chmodSync, cpSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packageRoot } from '../../src/model/embedded.ts';
import { kernelsAreOld } from '../../src/runtime/cuda/kernel-sources.ts';
import { temporaryFolder } from '../support/tiny-checkpoint.ts';

/** Writes something where nvcc would write the kernels. */
const compiler = '#!/bin/bash\nwhile [[ $1 != -o ]]; do shift; done\necho kernels >"$2"\n';

describe('kernels', () => {
  let folder: string;
  beforeAll(() => {
    folder = temporaryFolder();
    cpSync(join(packageRoot(), 'native'), join(folder, 'native'), { recursive: true });
    writeFileSync(join(folder, 'nvcc'), compiler);
    chmodSync(join(folder, 'nvcc'), 0o755);
  });
  afterAll(() => rmSync(folder, { recursive: true }));

  it('are known to be of other sources once these change, until they are built again', () => {
    const sources = join(folder, 'native');
    const kernels = join(folder, 'dist', 'native', 'kernels.fatbin');
    const build = () => {
      const env = { ...process.env, NVCC: join(folder, 'nvcc') };
      const { status, stderr } = spawnSync('bash', [join(sources, 'build.sh')], { env });
      expect([status, String(stderr)]).toEqual([0, '']);
    };
    const isOld = () => kernelsAreOld({ kernels, sources });
    expect(isOld()).toBe(true);
    build();
    expect(isOld()).toBe(false);
    appendFileSync(join(sources, 'README.md'), 'Not compiled.\n');
    expect(isOld()).toBe(false);
    for (const name of ['plan.cu', 'paged.cuh', 'new.cu']) {
      appendFileSync(join(sources, name), '// changed\n');
      expect(isOld()).toBe(true);
      build();
      expect(isOld()).toBe(false);
    }
    // As kernels that were built before there was a hash beside them.
    rmSync(`${kernels}.sources`);
    expect(isOld()).toBe(true);
    expect(kernelsAreOld({ kernels, sources: join(folder, 'none') })).toBe(false);
  });
});
