import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ingest } from '../eval/bench-server.ts';
import { startServerProcess, type ServerProcess } from '../src/cli/server-process.ts';
import { createTexts, type Texts } from './documents.ts';
import { watchProcesses, type MemoryFigures, type ProcessWatch } from './processes.ts';

/** A server under load. */
export interface LoadServer extends Pick<ServerProcess, 'url' | 'pid' | 'client'> {
  readonly watch: ProcessWatch;
}

/** How a server is started. */
export interface ServeOptions {
  /** Names it in the report. */
  readonly label: string;
  /** Variables beside those all servers get, for example `READONCE_POOL_BYTES`. */
  readonly environment?: Readonly<Record<string, string>>;
  /**
   * `shared` (default): the store of the run, where a document that an earlier scenario put need
   * not be read again. `empty`: a store of its own.
   */
  readonly store?: 'shared' | 'empty';
  /** Between two samples of memory; default a second. */
  readonly sampleMs?: number;
}

/** What is known of a server that has ended. */
export interface Served {
  readonly label: string;
  readonly memory: MemoryFigures;
  /** Lines of its log at level error and above. */
  readonly errorLines: readonly string[];
  /** 0 unless it ended badly; null if a signal ended it. */
  readonly exitStatus: number | null;
}

/** Starts servers, each a process of its own, on folders that are thrown away. */
export interface Stage {
  readonly texts: Texts;
  /** Starts a server, lends it to `use` and stops it. */
  withServer<T>(options: ServeOptions, use: (server: LoadServer) => Promise<T>): Promise<T>;
  /** The servers that ended since it was last asked. */
  takeServed(): readonly Served[];
  /** Removes what was stored. */
  close(): Promise<void>;
}

/** Enough of a document to know how many characters of it make a token. */
const sampleTokens = 1500;
const assumedCharactersPerToken = 3;
/** The first start converts the weights of a model. */
const readyTimeoutMs = 300_000;
const keptErrorLines = 20;

/** @param model as `READONCE_MODEL` */
export async function openStage(model: string): Promise<Stage> {
  const folder = await mkdtemp(join(tmpdir(), 'readonce-loadtest-'));
  const served: Served[] = [];
  let stores = 0;
  const withServer: Stage['withServer'] = async (options, use) => {
    const name = options.store === 'empty' ? `own-${stores++}` : 'shared';
    const server = await start({ model, data: join(folder, name) }, options);
    const watch = watchProcesses(server.pid, options.sampleMs ?? 1000);
    try {
      return await use({ url: server.url, pid: server.pid, client: server.client, watch });
    } finally {
      const memory = watch.figures();
      watch.close();
      const exitStatus = await server.stop();
      const errorLines = server.stderr().split('\n').filter(Boolean).slice(0, keptErrorLines);
      served.push({ label: options.label, memory, errorLines, exitStatus });
    }
  };
  // Whoever interrupts a run should not have to clean up after it.
  const removeNow = (): void => rmSync(folder, { recursive: true, force: true });
  process.once('exit', removeNow);
  const close = async (): Promise<void> => {
    process.off('exit', removeNow);
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const charactersPerToken = await measureTokens(withServer);
    return {
      texts: createTexts(charactersPerToken),
      withServer,
      takeServed: () => served.splice(0),
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function start(
  place: { readonly model: string; readonly data: string },
  { environment }: ServeOptions,
): Promise<ServerProcess> {
  // The rest of the user's settings would make figures of two machines incomparable.
  const inherited = Object.entries(process.env).filter(
    ([name]) => !name.startsWith('READONCE_') || name === 'READONCE_CACHE',
  );
  const server = await startServerProcess({
    flags: [],
    env: {
      ...Object.fromEntries(inherited),
      READONCE_HOST: '127.0.0.1',
      READONCE_PORT: '0',
      READONCE_MODEL: place.model,
      READONCE_DATA: place.data,
      READONCE_LOG_LEVEL: 'error',
      ...environment,
    },
  });
  try {
    await server.client.waitReady({ timeoutMs: readyTimeoutMs });
    return server;
  } catch (error) {
    await server.stop();
    throw error;
  }
}

/** Characters per token, by reading a piece of the prose that all documents are made of. */
function measureTokens(withServer: Stage['withServer']): Promise<number> {
  const { document } = createTexts(assumedCharactersPerToken).document({
    number: 0,
    tokens: sampleTokens,
  });
  return withServer({ label: 'counting tokens', store: 'empty' }, async ({ client }) => {
    const context = await ingest(client, { document, compression: { method: 'none' } });
    return document.length / context.document.tokens;
  });
}
