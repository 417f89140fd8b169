import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';

/** Starts a thread of this folder, by the name of its entry's file without the extension. */
export function startWorker(name: string, workerData: unknown): Worker {
  const extension = extname(fileURLToPath(import.meta.url));
  const entry = new URL(`./${name}${extension}`, import.meta.url);
  if (extension !== '.ts') return new Worker(entry, { workerData });
  // Threads do not inherit what makes a process understand TypeScript.
  const load = `register(); return import(${JSON.stringify(entry.href)});`;
  const script = `import('tsx/esm/api').then(({ register }) => { ${load} })`;
  return new Worker(script, { eval: true, workerData });
}
