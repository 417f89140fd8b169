import type { ServerProcess } from '../../src/cli/server-process.ts';
import type { ReadonceClient } from '../../src/client/client.ts';
import type { Answer, Context } from '../../src/client/types.ts';
import { assert } from '../../src/core/assert.ts';
import { ingest } from '../bench-server.ts';
import { engineMemory, restartEngine } from '../engine-process.ts';
import { median } from '../median.ts';

/** A document and questions about it. */
export interface Subject {
  readonly document: string;
  /** At least one. */
  readonly questions: readonly string[];
}

/** What one round measured of one document. Full: method none. Compact: kvzip at 0.3. */
export interface Round {
  /** Model time of reading the document without compression. */
  readonly prefillMs: number;
  /** Reading, scoring and storing it compact. */
  readonly ingestMs: number;
  readonly ingestPrefillMs: number;
  readonly scoreMs: number;
  readonly persistMs: number;
  readonly coldFirstTokenMs: number;
  /** Of it, loading the pairs from disk. */
  readonly coldLoadMs: number;
  /** Medians over the questions, contexts loaded. */
  readonly warmFirstTokenMs: number;
  readonly fullFirstTokenMs: number;
  readonly compactTokensPerSecond: number;
  readonly fullTokensPerSecond: number;
}

const compact = { method: 'kvzip', keepRatio: 0.3 } as const;
const full = { method: 'none' } as const;

/** Makes a model talk long enough for its speed to be measured. */
const longQuestion = 'Repeat the previous context exactly.';
const longAnswerTokens = 64;
const longAnswers = 3;

/** The highest memory of a fresh engine that ingests the document, and nothing else. */
export async function peakWhileIngesting(
  server: ServerProcess,
  { document }: Subject,
): Promise<{ readonly tokens: number; readonly peakBytes: number }> {
  await restartEngine(server);
  const context = await ingest(server.client, { document, compression: compact });
  const { peakBytes } = engineMemory(server);
  await server.client.delete(context.id);
  return { tokens: context.document.tokens, peakBytes };
}

export interface RoundOptions {
  /** Which of the two ingestions is first: alternates, so that the drift of a machine evens out. */
  readonly compactFirst: boolean;
}

/** Ingests both contexts, asks, and deletes them again. */
export async function measureRound(
  server: ServerProcess,
  subject: Subject,
  { compactFirst }: RoundOptions,
): Promise<Round> {
  const { client } = server;
  const { document } = subject;
  const early = compactFirst ? await ingest(client, { document, compression: compact }) : undefined;
  const whole = await ingest(client, { document, compression: full });
  const compressed = early ?? (await ingest(client, { document, compression: compact }));
  const cold = await askCold(server, compressed, subject);
  const warm = await askInTurn(client, { compressed, whole }, subject);
  const decoding = await decodeInTurn(client, { compressed, whole });
  await client.delete(whole.id);
  await client.delete(compressed.id);
  return {
    prefillMs: whole.timings.prefillMs,
    ingestMs: compressed.timings.totalMs,
    ingestPrefillMs: compressed.timings.prefillMs,
    scoreMs: compressed.timings.scoreMs,
    persistMs: compressed.timings.persistMs,
    coldFirstTokenMs: cold.timings.firstTokenMs,
    coldLoadMs: cold.timings.loadMs,
    warmFirstTokenMs: warm.compactMs,
    fullFirstTokenMs: warm.fullMs,
    ...decoding,
  };
}

interface Contexts {
  readonly compressed: Context;
  readonly whole: Context;
}

async function askCold(
  server: ServerProcess,
  { id }: Context,
  { questions }: Subject,
): Promise<Answer> {
  await restartEngine(server);
  const answer = await ask(server.client, id, questions[0] ?? '');
  assert(answer.cache.source === 'disk', `expected a cold cache but got ${answer.cache.source}`);
  return answer;
}

/** The same questions to both contexts, which take turns; both are loaded before. */
async function askInTurn(
  client: ReadonceClient,
  { compressed, whole }: Contexts,
  { questions }: Subject,
): Promise<{ readonly compactMs: number; readonly fullMs: number }> {
  for (const { id } of [compressed, whole]) await ask(client, id, questions[0] ?? '');
  const compactMs: number[] = [];
  const fullMs: number[] = [];
  for (const question of questions) {
    compactMs.push((await ask(client, compressed.id, question)).timings.firstTokenMs);
    fullMs.push((await ask(client, whole.id, question)).timings.firstTokenMs);
  }
  return { compactMs: median(compactMs), fullMs: median(fullMs) };
}

async function decodeInTurn(
  client: ReadonceClient,
  { compressed, whole }: Contexts,
): Promise<Pick<Round, 'compactTokensPerSecond' | 'fullTokensPerSecond'>> {
  const compactSpeeds: number[] = [];
  const fullSpeeds: number[] = [];
  for (let i = 0; i < longAnswers; i++) {
    compactSpeeds.push((await askLong(client, compressed)).timings.tokensPerSecond);
    fullSpeeds.push((await askLong(client, whole)).timings.tokensPerSecond);
  }
  return {
    compactTokensPerSecond: median(compactSpeeds),
    fullTokensPerSecond: median(fullSpeeds),
  };
}

function askLong(client: ReadonceClient, { id }: Context): Promise<Answer> {
  const request = { query: longQuestion, temperature: 0, maxTokens: longAnswerTokens };
  return client.query(id, request);
}

function ask(client: ReadonceClient, id: string, query: string): Promise<Answer> {
  return client.query(id, { query, temperature: 0, maxTokens: 16 });
}
