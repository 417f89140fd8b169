import type { Answer, QueryRequest } from '../client/types.ts';
import { defineCliCommand, type CliCommand, type Output } from './command.ts';
import { formatMs } from './format.ts';
import { connect, given, jsonArg, numberFlag, remoteArgs } from './remote.ts';

const args = {
  id: { type: 'positional', required: true, description: 'The context, as put printed it' },
  question: { type: 'positional', required: true, description: 'What to answer' },
  'max-tokens': { type: 'string', description: "The answer's longest length, tokens" },
  temperature: { type: 'string', description: '0, the default, is greedy' },
  'top-p': { type: 'string', description: 'Sample from the likeliest tokens of this probability' },
  'top-k': { type: 'string', description: 'Sample from this many tokens; 0: no limit' },
  seed: { type: 'string', description: 'Makes sampling repeatable' },
  'keep-ratio': { type: 'string', description: 'Use less of the stored cache than was kept' },
  ...remoteArgs,
  json: jsonArg,
} as const;

/** `readonce ask ID QUESTION`: streams the answer to stdout. */
export function askCommand(output: Output): CliCommand {
  return defineCliCommand({
    name: 'ask',
    description: 'Answer a question from a stored document',
    args,
    run: async ({ args }) => {
      const client = connect(args);
      const options = given({
        maxTokens: numberFlag('max-tokens', args['max-tokens']),
        temperature: numberFlag('temperature', args.temperature),
        topP: numberFlag('top-p', args['top-p']),
        topK: numberFlag('top-k', args['top-k']),
        seed: numberFlag('seed', args.seed),
        keepRatio: numberFlag('keep-ratio', args['keep-ratio']),
      });
      const request: QueryRequest = { query: args.question, ...options };
      if (args.json === true) {
        output.out(`${JSON.stringify(await client.query(args.id, request))}\n`);
        return;
      }
      for await (const event of client.stream(args.id, request)) {
        if (event.type === 'token') output.out(event.text);
        else output.out('\n');
        if (event.type === 'done') output.err(`${describeAnswer(event.answer)}\n`);
      }
    },
  });
}

/** What the answer took, on one line. */
export function describeAnswer({ usage, cache, timings }: Answer): string {
  return (
    `${usage.completionTokens} tokens, first after ${formatMs(timings.firstTokenMs)}; ` +
    `${usage.prefilledTokens} tokens computed, ${usage.contextTokens} taken from ${cache.source}`
  );
}
