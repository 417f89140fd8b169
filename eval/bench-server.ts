import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { startServerProcess, type ServerProcess } from '../src/cli/server-process.ts';
import type { ReadonceClient } from '../src/client/client.ts';
import type { Context, PutRequest } from '../src/client/types.ts';

/**
 * Starts `readonce serve` with the default model on a folder that is thrown away, lends it to `use`
 * and stops it.
 */
export async function withServer<T>(use: (server: ServerProcess) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(join(tmpdir(), 'readonce-bench-'));
  try {
    const server = await startServerProcess({
      flags: ['--host', '127.0.0.1', '--port', '0', '--data', folder, '--log-level', 'error'],
    });
    try {
      await server.client.waitReady();
      return await use(server);
    } finally {
      await server.stop();
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Reads a document. No HTTP request waits in silence, however long it takes. */
export function ingest(client: ReadonceClient, request: PutRequest): Promise<Context> {
  return client.put(request, { onProgress: () => undefined });
}
