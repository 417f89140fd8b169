import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { connect, remoteArgs } from './remote.ts';

const args = {
  id: { type: 'positional', required: true, description: 'The contexts to delete' },
  ...remoteArgs,
} as const;

/** `readonce rm ID…`: deletes contexts and prints the ids; stops at the first that fails. */
export function rmCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'rm',
    description: 'Delete stored contexts',
    args,
    variadic: true,
    run: async ({ args }) => {
      const client = connect(args);
      for (const id of args._) {
        await client.delete(id);
        output.out(`${id}\n`);
      }
    },
  });
}
