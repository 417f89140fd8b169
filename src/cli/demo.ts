import { rmSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Answer, Context } from '../client/types.ts';
import { clientApiKey } from '../config/load-config.ts';
import { ReadonceError } from '../core/errors.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { demoDocument, demoQuestions } from './demo-document.ts';
import { formatBytes, formatCount, formatMs, formatShare, formatTable } from './format.ts';
import { createProgressBar } from './progress.ts';
import { given } from './remote.ts';
import { startServerProcess, type ServerProcess } from './server-process.ts';
import { withSpinner } from './spinner.ts';

/**
 * `readonce demo`: puts a document once, asks, restarts the server, asks again and compares. Ends
 * with an error if an answer changed or a document token was computed again.
 */
export function demoCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'demo',
    description: 'Show it: put once, ask, restart, ask again',
    args: {},
    run: async () => {
      const folder = await mkdtemp(join(tmpdir(), 'readonce-demo-'));
      const servers: ServerProcess[] = [];
      const interrupted = (): void => {
        rmSync(folder, { recursive: true, force: true });
        process.exit(130);
      };
      process.once('SIGINT', interrupted);
      try {
        await demonstrate(output, async () => {
          const server = await startServerProcess({
            ...given({ apiKey: clientApiKey(undefined) }),
            flags: ['--host', '127.0.0.1', '--port', '0', '--data', folder, '--log-level', 'warn'],
          });
          servers.push(server);
          return server;
        });
      } finally {
        process.off('SIGINT', interrupted);
        for (const server of servers) await server.stop();
        await rm(folder, { recursive: true, force: true });
      }
    },
  });
}

async function demonstrate(output: Output, start: () => Promise<ServerProcess>): Promise<void> {
  const first = await withSpinner(
    output,
    'Starting the server (the first start converts the weights)',
    start,
  );
  output.out(`Server on ${first.url}. Putting a handbook once:\n`);
  const context = await putDocument(output, first);
  output.out(`${context.id}\n\n`);
  const before = await askAll(output, first, context.id);

  output.out('\nStopping the server. ');
  const status = await first.stop();
  check(status === 0, `Expected exit status 0 on SIGTERM but got ${status}.`);
  const second = await withSpinner(output, 'Starting it again', start);
  output.out('Started again on the same folder; the same questions:\n\n');
  const after = await askAll(output, second, context.id);
  compare(before, after);
  output.out('\nThe answers are the same, and no document token was computed again.\n\n');

  const reread = await withSpinner(output, 'Reading the document again, to compare', () =>
    measureReread(second),
  );
  output.out(summary(context, before, after, reread));
}

async function putDocument(output: Output, server: ServerProcess): Promise<Context> {
  const bar = createProgressBar(output);
  try {
    return await server.client.put({ document: demoDocument }, { onProgress: bar.update });
  } finally {
    bar.close();
  }
}

async function askAll(
  output: Output,
  server: ServerProcess,
  contextId: string,
): Promise<readonly Answer[]> {
  const answers: Answer[] = [];
  for (const question of demoQuestions) {
    const answer = await server.client.query(contextId, { query: question });
    answers.push(answer);
    const { timings, usage, cache } = answer;
    output.out(
      `  ${question}\n    ${answer.answer}\n` +
        `    first token after ${formatMs(timings.firstTokenMs)}, ` +
        `${usage.prefilledTokens} tokens computed, cache from ${cache.source}\n`,
    );
  }
  return answers;
}

function compare(before: readonly Answer[], after: readonly Answer[]): void {
  for (const [i, question] of demoQuestions.entries()) {
    const [old, now] = [before[i], after[i]];
    check(
      old?.answer === now?.answer,
      `Expected the answer to "${question}" to stay ${JSON.stringify(old?.answer)} but got ` +
        `${JSON.stringify(now?.answer)}.`,
    );
    for (const answer of [old, now]) {
      check(
        answer?.usage.prefilledTokens === answer?.usage.queryTokens,
        `Expected only the ${answer?.usage.queryTokens} tokens of "${question}" to be computed but ` +
          `got ${answer?.usage.prefilledTokens}.`,
      );
    }
  }
}

interface Reread {
  readonly prefillMs: number;
  readonly firstTokenMs: number;
}

/**
 * What a question costs that reads the document first: the bare prefill of an uncompressed context,
 * and a question's first token on it. Another instruction makes it another context, so that nothing
 * stored can help.
 */
async function measureReread({ client }: ServerProcess): Promise<Reread> {
  const context = await client.put({
    document: demoDocument,
    instructions: 'Answer from the document.',
    compression: { method: 'none' },
  });
  const query = { query: demoQuestions[0] ?? '' };
  await client.query(context.id, query);
  const { timings } = await client.query(context.id, query);
  return { prefillMs: context.timings.prefillMs, firstTokenMs: timings.firstTokenMs };
}

function summary(
  context: Context,
  before: readonly Answer[],
  after: readonly Answer[],
  reread: Reread,
): string {
  const { document, size, compression } = context;
  const coldMs = after[0]?.timings.firstTokenMs ?? Number.NaN;
  const warmMs = median([...before.slice(1), ...after.slice(1)].map((a) => a.timings.firstTokenMs));
  const rereadMs = reread.prefillMs + reread.firstTokenMs;
  const times = (ms: number): string => `${(rereadMs / ms).toFixed(1)} times sooner`;
  const rows = [
    ['document', `${formatCount(document.tokens)} tokens, read once`],
    [
      'KV pairs kept',
      `${formatCount(size.pairsKept)} of ${formatCount(size.pairsTotal)} ` +
        `(${formatShare(size.pairsKept / size.pairsTotal)}, ${compression.method})`,
    ],
    ['KV cache, full', formatBytes(size.fullBytes)],
    ['KV cache, stored', formatBytes(size.storedBytes)],
    ['first token, read again', formatMs(rereadMs)],
    ['first token, stored, cold', formatMs(coldMs), times(coldMs)],
    ['first token, stored, warm', formatMs(warmMs), times(warmMs)],
  ];
  return (
    `${formatTable(rows)}\n` +
    'Read again: prefilling the whole document, then the first token of a question on it.\n' +
    'Cold: the first question after the restart, loaded from disk. Warm: the median of the others.\n'
  );
}

function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}

function check(condition: boolean, message: string): void {
  if (!condition) throw new ReadonceError('internal', message);
}
