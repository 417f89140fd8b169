import type { Context } from '../client/types.ts';
import { defineCliCommand, UsageError, type CliCommand, type Output } from './command.ts';
import { formatBytes, formatCount, formatTable } from './format.ts';
import { connect, given, jsonArg, numberFlag, remoteArgs } from './remote.ts';

const defaultLimit = 20;
/** The server's largest page. */
const pageLimit = 100;

const args = {
  limit: { type: 'string', description: `Most contexts to list (${defaultLimit})` },
  label: { type: 'string', description: 'Only contexts with this label', valueHint: 'key=value' },
  ...remoteArgs,
  json: jsonArg,
} as const;

/** `readonce ls`: the stored contexts, newest first. */
export function lsCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'ls',
    description: 'List stored contexts, newest first',
    args,
    run: async ({ args }) => {
      const limit = numberFlag('limit', args.limit) ?? defaultLimit;
      if (!Number.isInteger(limit) || limit < 1) {
        throw new UsageError(`Expected --limit to be an integer from 1 but got ${args.limit}.`);
      }
      const client = connect(args);
      const label = args.label?.replace('=', ':');
      const contexts: Context[] = [];
      let cursor: string | undefined;
      do {
        const size = Math.min(pageLimit, limit - contexts.length);
        const page = await client.list({ limit: size, ...given({ label, cursor }) });
        contexts.push(...page.data);
        cursor = page.nextCursor ?? undefined;
      } while (cursor !== undefined && contexts.length < limit);
      if (args.json === true) {
        output.out(`${JSON.stringify(contexts)}\n`);
        return;
      }
      output.out(describeContexts(contexts));
      if (cursor !== undefined) output.err(`There are more: use --limit.\n`);
    },
  });
}

/** One row a context under a header. */
export function describeContexts(contexts: readonly Context[]): string {
  const header = ['ID', 'STATUS', 'TOKENS', 'METHOD', 'KEEP', 'DISK', 'CREATED', 'LABELS'];
  const rows = contexts.map((context) => [
    context.id,
    context.status,
    formatCount(context.document.tokens),
    context.compression.method,
    String(context.compression.keepRatio),
    formatBytes(context.size.diskBytes),
    context.createdAt,
    Object.entries(context.labels)
      .map(([key, value]) => `${key}=${value}`)
      .join(','),
  ]);
  return formatTable([header, ...rows]);
}
