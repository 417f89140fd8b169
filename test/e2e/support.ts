import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { startServerProcess, type ServerProcess } from '../../src/cli/server-process.ts';

/*
 * End-to-end tests run what users run: the compiled program, as processes of its own, over real
 * HTTP and a real store, with the small model.
 */

const root = fileURLToPath(new URL('../..', import.meta.url));
const program = join(root, 'dist', 'src', 'cli', 'main.js');

/** A document of facts that the small model can copy. */
export const observatory =
  'The Marlow Observatory stands on a ridge above the village of Denby. Construction began in 1908 ' +
  'and took nearly three years; the building finally opened to the public on 4 May 1911. Its first ' +
  'director, the astronomer Ada Finch, had spent a decade raising money from local mill owners. The ' +
  'main telescope, a refractor with a 60-centimetre lens, was ground by hand in Sheffield and carried ' +
  'up the hill by a team of eight horses.\n\nDuring the war the dome was painted black so that ' +
  'aircraft would not notice it. Observations resumed in 1947 under Walter Greaves, who discovered ' +
  'two comets and a minor planet that he named after his daughter. Today the observatory is run by a ' +
  'charity and welcomes about 12,000 visitors a year. The small museum on the ground floor closes on ' +
  'Mondays.';

/** Unlike questions about `observatory`. */
export const questions: readonly string[] = [
  'When did the observatory open to the public?',
  'Who was the first director of the observatory?',
  'Where was the lens of the main telescope ground?',
  'How many visitors does the observatory welcome each year?',
  'On which day is the museum closed?',
];

/** Asks for an answer of some hundred tokens: long enough to be interrupted. */
export const longQuestion = 'Repeat the previous context exactly.';

/** Folders of one test file. */
export interface Workspace {
  /** For `--data`. */
  readonly data: string;
  readonly folder: string;
  readonly env: NodeJS.ProcessEnv;
  remove(): void;
}

/** A temporary folder with a store and a cache of its own. */
export function createWorkspace(): Workspace {
  assertBuilt();
  const folder = mkdtempSync(join(tmpdir(), 'readonce-e2e-'));
  const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('READONCE_'));
  return {
    folder,
    data: join(folder, 'data'),
    env: {
      ...Object.fromEntries(inherited),
      READONCE_MODEL: 'reader-mini',
      READONCE_CACHE: join(folder, 'cache'),
      READONCE_LOG_LEVEL: 'warn',
    },
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}

/** Starts `readonce serve` on a free port. */
export async function startServer(
  { data, env }: Workspace,
  flags: readonly string[] = [],
  apiKey?: string,
): Promise<ServerProcess> {
  return startServerProcess({
    command: [process.execPath, program],
    flags: ['--port', '0', '--data', data, ...flags],
    env,
    ...(apiKey === undefined ? {} : { apiKey }),
  });
}

/** What a program that ended left behind. */
export interface Finished {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the program to its end. */
export async function runProgram(
  args: readonly string[],
  options: { readonly env: NodeJS.ProcessEnv; readonly stdin?: string },
): Promise<Finished> {
  const child = spawn(process.execPath, [program, ...args], { env: options.env });
  let stdout = '';
  let stderr = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    stdout += text;
  });
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  child.stdin.end(options.stdin ?? '');
  await once(child, 'close');
  return { status: child.exitCode, stdout, stderr };
}

/** Process ids of the children of a process. */
export async function childrenOf(pid: number): Promise<readonly number[]> {
  const ps = spawn('ps', ['-A', '-o', 'pid=,ppid=']);
  let text = '';
  ps.stdout.setEncoding('utf8').on('data', (piece: string) => {
    text += piece;
  });
  await once(ps, 'close');
  return text
    .trim()
    .split('\n')
    .map((line) => line.trim().split(/\s+/).map(Number))
    .filter(([, parent]) => parent === pid)
    .map(([child]) => child ?? 0);
}

/** The compiled program must be that of the sources, or the tests would test something else. */
function assertBuilt(): void {
  const builtMs = existsSync(program) ? newest(join(root, 'dist', 'src'), '.js') : 0;
  const sourceMs = Math.max(newest(join(root, 'src'), '.ts'), newest(join(root, 'storage'), '.ts'));
  if (builtMs < sourceMs) throw new Error('dist/ is older than the sources: npm run build first.');
}

function newest(folder: string, ending: string): number {
  const times = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith(ending))
    .map((entry) => statSync(join(entry.parentPath, entry.name)).mtimeMs);
  return Math.max(...times);
}
