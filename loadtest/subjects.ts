import { ingest } from '../eval/bench-server.ts';
import { spread } from '../eval/joined-document.ts';
import type { Context } from '../src/client/types.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { askOnce, askQuietly, contextAsk, type Ask, type Job } from './asks.ts';
import { countReply } from './load.ts';
import type { ScenarioSetup } from './scenario.ts';
import { longTokens, shortTokens } from './sizes.ts';
import type { LoadServer } from './stage.ts';
import { createTally, type PhaseFigures } from './tally.ts';

/** A document that was put, and questions about it. */
export interface Subject {
  readonly context: Context;
  readonly document: string;
  readonly questions: readonly string[];
}

/** Which documents of the texts. But for the usual ones, each scenario has its own numbers. */
export interface SubjectsWanted {
  readonly firstNumber: number;
  readonly count: number;
  readonly tokens: number;
  /** Of each document. */
  readonly questions: number;
}

/** First numbers of the documents of each kind. */
export const documentNumbers = {
  usual: 1,
  cold: 100,
  ingest: 200,
  burst: 300,
  soak: 1000,
} as const;

/** Wordings that ask for more than 64 tokens, of most models and documents. */
const longQuestions = [
  'Repeat the previous context exactly.',
  'Repeat the text exactly.',
  'Copy the document word for word.',
  'Repeat the whole document from the beginning.',
] as const;

/** Puts documents, or finds them in the store of the run. */
export async function putSubjects(
  server: Pick<LoadServer, 'client'>,
  { stage, progress }: Pick<ScenarioSetup, 'stage' | 'progress'>,
  wanted: SubjectsWanted,
): Promise<readonly Subject[]> {
  const subjects: Subject[] = [];
  for (let i = 0; i < wanted.count; i++) {
    const number = wanted.firstNumber + i;
    const { document, questions } = stage.texts.document({ number, tokens: wanted.tokens });
    const context = await ingest(server.client, { document });
    progress(`  document ${i + 1} of ${wanted.count}: ${context.document.tokens} tokens`);
    const asked = spread(questions, wanted.questions).map(({ question }) => question);
    subjects.push({ context, document, questions: asked });
  }
  return subjects;
}

/** The few contexts that most scenarios ask of. */
export function usualSubjects(
  server: Pick<LoadServer, 'client'>,
  setup: ScenarioSetup,
): Promise<readonly Subject[]> {
  const { documents, documentTokens, questions } = setup.sizes;
  return putSubjects(server, setup, {
    firstNumber: documentNumbers.usual,
    count: documents,
    tokens: documentTokens,
    questions,
  });
}

/** The questions of all subjects, neighbours about different contexts, answered in quiet. */
export function shortJobs(
  { url }: Pick<LoadServer, 'url'>,
  subjects: readonly Subject[],
): Promise<readonly Job[]> {
  const rounds = Math.max(...subjects.map(({ questions }) => questions.length));
  const asks: Ask[] = [];
  for (let round = 0; round < rounds; round++) {
    for (const { context, questions } of subjects) {
      const query = questions[round];
      if (query === undefined) continue;
      asks.push(contextAsk({ contextId: context.id, query, maxTokens: shortTokens }));
    }
  }
  return askQuietly(url, asks);
}

/**
 * Questions with long answers, answered in quiet; wordings that a model answers shortly are left
 * out.
 * @throws ReadonceError `unsupported` for a model that gives no long answer
 */
export async function longJobs(
  { url }: Pick<LoadServer, 'url'>,
  subjects: readonly Subject[],
  maxTokens: number = longTokens,
): Promise<readonly Job[]> {
  const asks = longQuestions.flatMap((query) =>
    subjects.map(({ context }) => contextAsk({ contextId: context.id, query, maxTokens })),
  );
  const jobs = await askQuietly(url, asks);
  const long = jobs.filter(({ expected }) => expected.finishReason === 'length');
  if (long.length > 0) return long;
  throw new ReadonceError(
    'unsupported',
    `Expected answers of ${maxTokens} tokens from the model when asked to repeat a document, but ` +
      'got shorter ones. Choose another model with --model.',
  );
}

/** Asks every job once more, one at a time: after a load, answers must be what they were. */
export async function askAgain(
  { url }: Pick<LoadServer, 'url'>,
  jobs: readonly Job[],
  name: string,
): Promise<PhaseFigures> {
  const tally = createTally();
  for (const job of jobs) {
    const startMs = performance.now();
    try {
      const reply = await askOnce(url, job);
      countReply(tally, job, { reply, totalMs: performance.now() - startMs });
    } catch (error) {
      if (!(error instanceof ReadonceError)) throw error;
      tally.failed(error.code);
    }
  }
  return tally.figures({ name, clients: 1 });
}
