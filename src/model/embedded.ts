import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { assert } from '../core/assert.ts';

/** Models that come with the package, and what `GET /models` says of them. */
export const embeddedModels: ReadonlyMap<string, string> = new Map([
  [
    'reader',
    'Answers questions about a document by reading it: 135M parameters, made from SmolLM2-135M-Instruct',
  ],
  [
    'reader-mini',
    'A 16M-parameter reader for tests, load tests and small machines, trained from scratch',
  ],
]);

/** Folder of an embedded model in the package, whether run from `src/` or from `dist/`. */
export function embeddedFolder(name: string): string {
  assert(embeddedModels.has(name), `expected an embedded model but got ${name}`);
  return join(packageRoot(), 'models', name);
}

/** Folder of the package, whether run from `src/` or from `dist/`. */
export function packageRoot(): string {
  let folder = dirname(fileURLToPath(import.meta.url));
  while (!existsSync(join(folder, 'package.json'))) {
    const parent = dirname(folder);
    assert(parent !== folder, 'package.json lies above this file');
    folder = parent;
  }
  return folder;
}
