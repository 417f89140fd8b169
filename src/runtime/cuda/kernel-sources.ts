import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../model/embedded.ts';
import { kernelsPath } from './provider-files.ts';

/** Where kernels and their sources are; by default, this project's. */
export interface KernelFiles {
  readonly kernels: string;
  readonly sources: string;
}

/**
 * Whether there are sources that the kernels were not built of: launches would pass arguments that
 * they do not have. `native/build.sh` leaves the hash of its sources beside what it builds; without
 * sources, as where only `dist` is installed, nothing is compared.
 */
export function kernelsAreOld(files: KernelFiles = ownFiles()): boolean {
  const expected = sourcesHash(files.sources);
  if (expected === undefined) return false;
  const stamp = `${files.kernels}.sources`;
  return !existsSync(stamp) || readFileSync(stamp, 'latin1').trim() !== expected;
}

/** SHA-256 over all sources, `.cu` before `.cuh`, each in the order of their names' bytes. */
function sourcesHash(folder: string): string | undefined {
  if (!existsSync(folder)) return undefined;
  const names = readdirSync(folder).sort();
  const hash = createHash('sha256');
  for (const ending of ['.cu', '.cuh']) {
    for (const name of names.filter((each) => each.endsWith(ending))) {
      hash.update(readFileSync(join(folder, name)));
    }
  }
  return hash.digest('hex');
}

function ownFiles(): KernelFiles {
  return { kernels: kernelsPath(), sources: join(packageRoot(), 'native') };
}
