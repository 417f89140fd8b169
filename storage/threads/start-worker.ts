import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { guardData, guardThread, newGuard } from './exit-guard.ts';

/**
 * Starts a thread of this folder, by the name of its entry's file without the extension. It is not
 * ended in the middle of a transaction when the process exits.
 */
export function startWorker(name: string, data: object): Worker {
  const guard = newGuard();
  const worker = newWorker(name, guardData(data, guard));
  guardThread(worker, guard);
  return worker;
}

function newWorker(name: string, workerData: object): Worker {
  const extension = extname(fileURLToPath(import.meta.url));
  const entry = new URL(`./${name}${extension}`, import.meta.url);
  if (extension !== '.ts') return new Worker(entry, { workerData });
  // Threads do not inherit what makes a process understand TypeScript.
  const load = `register(); return import(${JSON.stringify(entry.href)});`;
  const script = `import('tsx/esm/api').then(({ register }) => { ${load} })`;
  return new Worker(script, { eval: true, workerData });
}
