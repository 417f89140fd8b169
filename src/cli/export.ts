import { createWriteStream } from 'node:fs';
import { rename, rm, stat } from 'node:fs/promises';
import { pipeline } from 'node:stream/promises';
import { ReadonceError } from '../core/errors.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { formatBytes } from './format.ts';
import { connect, remoteArgs } from './remote.ts';

const args = {
  id: { type: 'positional', required: true, description: 'The context' },
  output: {
    type: 'string',
    alias: 'o',
    description: 'File to write (ID.readonce)',
    valueHint: 'file',
  },
  ...remoteArgs,
} as const;

/**
 * `readonce export ID -o FILE`: writes a context to a file. The file appears when it is whole:
 * until then it has another name, which goes when the transfer fails.
 */
export function exportCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'export',
    description: 'Write a stored context to a file',
    args,
    run: async ({ args }) => {
      const file = args.output ?? `${args.id}.readonce`;
      const part = `${file}.part`;
      const body = await connect(args).export(args.id);
      try {
        await pipeline(body, createWriteStream(part));
        await rename(part, file);
      } catch (error) {
        await rm(part, { force: true });
        const reason = error instanceof Error ? error.message : String(error);
        const message = `Expected to write ${file} but got: ${reason}. Try again.`;
        throw new ReadonceError('internal', message, { cause: error });
      }
      output.out(`${file}\n`);
      output.err(`${formatBytes((await stat(file)).size)}\n`);
    },
  });
}
