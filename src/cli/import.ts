import { createReadStream } from 'node:fs';
import { access, constants } from 'node:fs/promises';
import { ReadonceError } from '../core/errors.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { describeContext } from './put.ts';
import { connect, jsonArg, remoteArgs } from './remote.ts';

const args = {
  file: {
    type: 'positional',
    required: true,
    description: 'A file that export wrote; - reads standard input',
  },
  ...remoteArgs,
  json: jsonArg,
} as const;

/** `readonce import FILE|-`: stores the context of an exported file and prints what it is. */
export function importCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'import',
    description: 'Store the context of an exported file',
    args,
    run: async ({ args }) => {
      const client = connect(args);
      const context = await client.import(await openFile(args.file));
      output.out(args.json === true ? `${JSON.stringify(context)}\n` : describeContext(context));
    },
  });
}

async function openFile(file: string): Promise<AsyncIterable<Uint8Array>> {
  if (file === '-') return process.stdin;
  await access(file, constants.R_OK).catch((error: unknown) => {
    const message = `Expected ${file} to be a readable file but got: ${String(error)}`;
    throw new ReadonceError('invalid_argument', message, { cause: error });
  });
  return createReadStream(file);
}
