import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createClient, type ReadonceClient } from '../client/client.ts';
import { ReadonceError } from '../core/errors.ts';
import { given } from './remote.ts';

/** How to start a server of its own process. */
export interface ServerProcessOptions {
  /** Flags of `readonce serve`. */
  readonly flags: readonly string[];
  /** Program and first arguments; default: this very program. */
  readonly command?: readonly string[];
  /** Default: the environment of this process. */
  readonly env?: NodeJS.ProcessEnv;
  /** What `client` sends. */
  readonly apiKey?: string;
}

/** A running `readonce serve`. */
export interface ServerProcess {
  readonly pid: number;
  readonly url: string;
  readonly client: ReadonceClient;
  /** Everything written so far. */
  stdout(): string;
  stderr(): string;
  /** Signals it (default SIGTERM); resolves with the exit status, null if a signal ended it. */
  stop(signal?: NodeJS.Signals): Promise<number | null>;
}

const readyLine = /^readonce ready on (\S+)$/m;

/**
 * Starts `readonce serve` and resolves when it printed its ready line.
 * @throws ReadonceError `engine_unavailable` with what it wrote to stderr when it ends before
 */
export async function startServerProcess(options: ServerProcessOptions): Promise<ServerProcess> {
  const [program = process.execPath, ...first] = options.command ?? ownCommand();
  const child = spawn(program, [...first, 'serve', ...options.flags], {
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.env === undefined ? {} : { env: options.env }),
  });
  let stdout = '';
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const exit = once(child, 'close');
  const killChild = (): void => {
    child.kill('SIGTERM');
  };
  process.once('exit', killChild);
  const stop = async (signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> => {
    child.kill(signal);
    await exit;
    process.off('exit', killChild);
    return child.exitCode;
  };
  const url = await new Promise<string>((resolve, reject) => {
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      stdout += text;
      const match = readyLine.exec(stdout);
      if (match?.[1] !== undefined) resolve(match[1]);
    });
    exit.then(() => reject(endedError(child.exitCode, stderr)), reject);
  });
  return {
    pid: child.pid ?? 0,
    url,
    client: createClient({ baseUrl: url, ...given({ apiKey: options.apiKey }) }),
    stdout: () => stdout,
    stderr: () => stderr,
    stop,
  };
}

/** This program, compiled or not. */
function ownCommand(): readonly string[] {
  const file = fileURLToPath(import.meta.url);
  const main = fileURLToPath(new URL(`./main${extname(file)}`, import.meta.url));
  return [process.execPath, ...process.execArgv, main];
}

function endedError(status: number | null, stderr: string): ReadonceError {
  const tail = stderr.slice(-2000).trim();
  return new ReadonceError(
    'engine_unavailable',
    `Expected the server to start but it ended with status ${status}:\n${tail}`,
  );
}
