import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import type { Context, PutRequest } from '../client/types.ts';
import { ReadonceError } from '../core/errors.ts';
import { defineCliCommand, UsageError, type CliCommand, type Output } from './command.ts';
import { formatBytes, formatCount, formatMs, formatShare, formatTable } from './format.ts';
import { createProgressBar } from './progress.ts';
import { connect, given, jsonArg, numberFlag, remoteArgs } from './remote.ts';

const args = {
  file: {
    type: 'positional',
    required: true,
    description: 'The document, UTF-8 text; - reads standard input',
  },
  method: { type: 'string', description: 'How pairs are scored (GET /methods lists them)' },
  'keep-ratio': { type: 'string', description: 'Fraction of the KV pairs kept, (0, 1]' },
  budget: { type: 'string', description: 'How pairs are chosen across heads: global, uniform' },
  precision: { type: 'string', description: 'Stored element type, for example f16' },
  instructions: { type: 'string', description: 'System text, part of the context' },
  ttl: { type: 'string', description: 'Seconds until the context expires', valueHint: 'seconds' },
  pinned: { type: 'boolean', description: 'Never remove the context to make room' },
  label: { type: 'string', description: 'Labels', valueHint: 'key=value,…' },
  ...remoteArgs,
  json: jsonArg,
} as const;

/** `readonce put FILE|-`: reads a document once and prints the context's id and what it took. */
export function putCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'put',
    description: 'Read a document once and store it',
    args,
    run: async ({ args }) => {
      const client = connect(args);
      const compression = given({
        method: args.method,
        keepRatio: numberFlag('keep-ratio', args['keep-ratio']),
        budget: args.budget,
        precision: args.precision,
      });
      const options = given({
        instructions: args.instructions,
        ttlSeconds: numberFlag('ttl', args.ttl),
        pinned: args.pinned,
        labels: parseLabels(args.label),
      });
      const request: PutRequest = {
        document: await readDocument(args.file),
        ...options,
        ...(Object.keys(compression).length === 0 ? {} : { compression }),
      };
      const bar = createProgressBar(output);
      try {
        const context = await client.put(request, { onProgress: bar.update });
        bar.close();
        output.out(args.json === true ? `${JSON.stringify(context)}\n` : describeContext(context));
      } finally {
        bar.close();
      }
    },
  });
}

/** The id on a line of its own, then a small table. */
export function describeContext(context: Context): string {
  const { document, compression, size, timings } = context;
  const { method, keepRatio, budget, precision } = compression;
  const rows = [
    ['tokens', formatCount(document.tokens)],
    ['compression', `${method}, ${budget}, keepRatio ${keepRatio}, ${precision}`],
    [
      'pairs kept',
      `${formatCount(size.pairsKept)} of ${formatCount(size.pairsTotal)} ` +
        `(${formatShare(size.pairsKept / size.pairsTotal)})`,
    ],
    [
      'size',
      `${formatBytes(size.storedBytes)} of ${formatBytes(size.fullBytes)} ` +
        `(${size.compressionFactor.toFixed(2)} times smaller)`,
    ],
    [
      'time',
      context.reused ? 'none: it was stored already, or derived' : formatMs(timings.totalMs),
    ],
  ];
  return `${context.id}\n${formatTable(rows)}`;
}

async function readDocument(file: string): Promise<string> {
  const bytes = await (file === '-' ? buffer(process.stdin) : readFile(file)).catch(
    (error: unknown) => {
      const message = `Expected ${file} to be a readable file but got: ${String(error)}`;
      throw new ReadonceError('invalid_argument', message, { cause: error });
    },
  );
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    const message = `Expected ${file} to be UTF-8 text but got invalid bytes. Convert it first.`;
    throw new ReadonceError('invalid_argument', message, { cause: error });
  }
}

function parseLabels(text: string | undefined): Record<string, string> | undefined {
  if (text === undefined) return undefined;
  const labels: Record<string, string> = {};
  for (const pair of text.split(',')) {
    const equals = pair.indexOf('=');
    if (equals < 1) {
      const got = JSON.stringify(text);
      throw new UsageError(`Expected --label to be key=value,key=value… but got ${got}.`);
    }
    labels[pair.slice(0, equals)] = pair.slice(equals + 1);
  }
  return labels;
}
