import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { ReadonceError } from '../core/errors.ts';
import { packageRoot } from '../model/embedded.ts';
import { askCommand } from './ask.ts';
import { UsageError, type CliCommand, type Output } from './command.ts';
import { demoCommand } from './demo.ts';
import { doctorCommand } from './doctor.ts';
import { exportCommand } from './export.ts';
import { importCommand } from './import.ts';
import { lsCommand } from './ls.ts';
import { putCommand } from './put.ts';
import { rmCommand } from './rm.ts';
import { serveCommand } from './serve.ts';
import { setupCudaCommand } from './setup-cuda.ts';
import { storeCommand } from './store.ts';

/**
 * Runs one command line (without the program's name).
 * @returns the exit status: 0, 1 for an operating error, 2 for a wrong command line. Programmer
 * errors are thrown.
 */
export async function runCli(rawArgs: readonly string[], output: Output): Promise<number> {
  const commands: readonly CliCommand[] = [
    serveCommand(output),
    putCommand(output),
    askCommand(output),
    lsCommand(output),
    rmCommand(output),
    exportCommand(output),
    importCommand(output),
    storeCommand(output),
    doctorCommand(output),
    setupCudaCommand(output),
    demoCommand(output),
  ];
  const [name, ...rest] = rawArgs;
  if (name === undefined || name === '--help' || name === '-h') {
    output.out(overview(commands));
    return name === undefined ? 2 : 0;
  }
  if (name === '--version') {
    output.out(`${packageVersion()}\n`);
    return 0;
  }
  const command = commands.find((candidate) => candidate.name === name);
  if (command === undefined) {
    const names = commands.map((known) => known.name).join(', ');
    output.err(`Expected a command (${names}) but got ${JSON.stringify(name)}.\n`);
    return 2;
  }
  if (asksForHelp(rest)) {
    output.out(`${await command.usage(rest)}\n`);
    return 0;
  }
  try {
    await command.run(rest);
    return 0;
  } catch (error) {
    if (!(error instanceof UsageError) && !(error instanceof ReadonceError)) throw error;
    output.err(`readonce ${name}: ${error.message}\n`);
    if (error instanceof ReadonceError) return 1;
    output.err(`Try "readonce ${name} --help".\n`);
    return 2;
  }
}

/** Only before `--`, so that a question may contain the word. */
function asksForHelp(rawArgs: readonly string[]): boolean {
  const end = rawArgs.indexOf('--');
  const flags = end === -1 ? rawArgs : rawArgs.slice(0, end);
  return flags.includes('--help') || flags.includes('-h');
}

function packageVersion(): string {
  const text = readFileSync(join(packageRoot(), 'package.json'), 'utf8');
  const manifest: { readonly version: string } = JSON.parse(text);
  return manifest.version;
}

function overview(commands: readonly CliCommand[]): string {
  const width = Math.max(...commands.map(({ name }) => name.length));
  const lines = commands.map(({ name, description }) => `  ${name.padEnd(width)} ${description}`);
  return [
    'readonce: read a document once, answer from it for ever.',
    '',
    ...lines,
    '',
    '"readonce COMMAND --help" explains a command.',
    '',
  ].join('\n');
}
