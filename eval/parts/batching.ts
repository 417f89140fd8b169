import { formatCount } from '../../src/cli/format.ts';
import { createRandom } from '../../src/core/random.ts';
import { atLeast } from '../check.ts';
import { loadHandWritten, loadProse, type EvalDocument } from '../datasets.ts';
import { openLab, type Lab, type LabQuestion } from '../lab.ts';
import type { PartReport, PartSetup } from '../part.ts';

/** A model and how many questions it is asked. */
interface Study {
  readonly model: string;
  /** Undefined: all there are. */
  readonly questions: number | undefined;
}

interface StudyRow {
  readonly model: string;
  readonly contexts: number;
  readonly questions: number;
  readonly equal: number;
  /** Questions whose answers differ. */
  readonly unlike: readonly { readonly alone: string; readonly together: string }[];
  readonly aloneSeconds: number;
  readonly togetherSeconds: number;
}

const studies: readonly Study[] = [
  { model: 'reader-mini', questions: undefined },
  { model: 'reader', questions: 100 },
];

/** Questions asked at the same time, on shared and on different contexts. */
const together = 16;
const keepRatio = 0.3;
const compression = { method: 'kvzip', keepRatio, budget: 'global', precision: 'f16' } as const;

/** Whether an answer depends on what else is running. */
export async function batching(setup: PartSetup): Promise<PartReport> {
  const rows: StudyRow[] = [];
  for (const study of studies) rows.push(await compare(study, setup));
  return {
    title: 'Batching',
    explanation:
      `Greedy answers to questions asked one at a time, and ${together} at a time in a random ` +
      `order, at keepRatio ${keepRatio}: equal if they are the same, character for character.`,
    tables: [
      {
        title: 'Answers alone and in company',
        headers: ['model', 'contexts', 'questions', 'equal', 'alone', 'together'],
        rows: rows.map((row) => [
          row.model,
          formatCount(row.contexts),
          formatCount(row.questions),
          formatCount(row.equal),
          `${row.aloneSeconds.toFixed(0)} s`,
          `${row.togetherSeconds.toFixed(0)} s`,
        ]),
      },
    ],
    checks: setup.quick
      ? []
      : rows.map(({ model, equal, questions }) =>
          atLeast(1, {
            what: `${model}: equal answers`,
            value: equal / questions,
            format: (share) => `${(100 * share).toFixed(1)} %`,
          }),
        ),
    data: rows,
  };
}

async function compare(study: Study, setup: PartSetup): Promise<StudyRow> {
  const { model } = study;
  const lab = await openLab({ model, cacheFolder: setup.cacheFolder });
  try {
    const questions = await readAll(lab, study, setup);
    setup.progress(`batching: ${model}, ${questions.length} questions alone`);
    const alone = await timed(async () => {
      const answers: string[] = [];
      for (const question of questions) answers.push(await lab.ask(question));
      return answers;
    });
    setup.progress(`batching: ${model}, together`);
    const inCompany = await timed(() => askTogether(lab, questions));
    const unlike = alone.result
      .map((answer, i) => ({ alone: answer, together: inCompany.result[i] ?? '' }))
      .filter((pair) => pair.alone !== pair.together);
    return {
      model,
      contexts: new Set(questions.map(({ contextId }) => contextId)).size,
      questions: questions.length,
      equal: questions.length - unlike.length,
      unlike,
      aloneSeconds: alone.seconds,
      togetherSeconds: inCompany.seconds,
    };
  } finally {
    await lab.close();
  }
}

/** Reads documents until there are enough questions. */
async function readAll(
  lab: Lab,
  { model, questions: wanted }: Study,
  { quick, documents, progress }: PartSetup,
): Promise<readonly LabQuestion[]> {
  const all: readonly EvalDocument[] = [
    ...loadHandWritten(),
    ...loadProse(),
    ...(documents ?? []).filter(({ split }) => split.startsWith('held')),
  ];
  const questions: LabQuestion[] = [];
  for (const [i, document] of all.entries()) {
    if (questions.length >= (quick ? 20 : (wanted ?? Infinity))) break;
    progress(`batching: ${model} reads document ${i + 1}`);
    const contextId = await lab.read(document.document, compression);
    for (const { question } of document.questions) {
      questions.push({ contextId, question, keepRatio });
    }
  }
  return questions.slice(0, wanted);
}

/** A fixed number of askers take the next question when they have their answer. */
async function askTogether(lab: Lab, questions: readonly LabQuestion[]): Promise<string[]> {
  const random = createRandom(16);
  const order = questions
    .map((question, i) => ({ question, i, rank: random.next() }))
    .sort((a, b) => a.rank - b.rank);
  const answers: string[] = [];
  const asker = async (): Promise<void> => {
    for (let next = order.pop(); next !== undefined; next = order.pop()) {
      answers[next.i] = await lab.ask(next.question);
    }
  };
  await Promise.all(Array.from({ length: together }, asker));
  return answers;
}

async function timed<T>(
  work: () => Promise<T>,
): Promise<{ readonly result: T; readonly seconds: number }> {
  const startMs = performance.now();
  const result = await work();
  return { result, seconds: (performance.now() - startMs) / 1000 };
}
