import { readdirSync, readlinkSync } from 'node:fs';
import { expect, it } from 'vitest';
import { loadOrt } from '../../src/runtime/ort/api.ts';
import { OrtEnvironment } from '../../src/runtime/ort/session.ts';

/** Files this process has open; Linux only, elsewhere none are known. */
function openFiles(): readonly string[] {
  if (process.platform !== 'linux') return [];
  return readdirSync('/proc/self/fd').flatMap((descriptor) => {
    try {
      return [readlinkSync(`/proc/self/fd/${descriptor}`)];
    } catch {
      // Closed between the two calls.
      return [];
    }
  });
}

it('loading the runtime opens no database of usage events', () => {
  const environment = new OrtEnvironment(loadOrt(), { threads: 1, tensors: [] });
  expect(openFiles().filter((path) => path.includes('onnxruntime.db'))).toEqual([]);
  environment.close();
});
