import { formatCount } from '../../src/cli/format.ts';
import { assert } from '../../src/core/assert.ts';
import { atLeast } from '../check.ts';
import { loadHandWritten, loadProse, type EvalDocument } from '../datasets.ts';
import { openLab, type Lab } from '../lab.ts';
import type { PartReport, PartSetup } from '../part.ts';

const models: readonly string[] = ['reader-mini', 'reader'];

/** Questions asked at the same time: answers do not depend on it on the CPU, and it saves time. */
const together = 16;
const keepRatio = 0.3;
const compression = { method: 'kvzip', keepRatio, budget: 'global', precision: 'f16' } as const;

/** What one device makes of the documents and questions. */
interface Findings {
  readonly answers: readonly string[];
  /** By document and head. */
  readonly kept: readonly (readonly Uint32Array[])[];
  readonly readSeconds: number;
  readonly askSeconds: number;
}

interface StudyRow {
  readonly model: string;
  readonly documents: number;
  readonly questions: number;
  readonly equal: number;
  readonly unlike: readonly { readonly cpu: string; readonly cuda: string }[];
  /** Pairs that the CPU's engine kept, and how many of them the GPU's kept too. */
  readonly keptPairs: number;
  readonly keptByBoth: number;
  readonly seconds: Readonly<Record<'cpu' | 'cuda', readonly [read: number, ask: number]>>;
}

/** Whether a GPU keeps the same pairs and gives the same answers as the CPU. */
export async function devices(setup: PartSetup): Promise<PartReport> {
  const rows: StudyRow[] = [];
  for (const model of models) rows.push(await compare(model, setup));
  return {
    title: 'CPU and GPU',
    explanation:
      `The same documents read and the same questions answered by the engine on the CPU (float32) ` +
      `and on a GPU (float16), at keepRatio ${keepRatio}: answers are equal if they are the same, ` +
      'character for character. Kept by both: of the pairs that the CPU keeps.',
    tables: [
      {
        title: 'Kept pairs and answers',
        headers: [
          'model',
          'documents',
          'kept by both',
          'questions',
          'equal answers',
          'CPU: read, ask',
          'GPU: read, ask',
        ],
        rows: rows.map((row) => [
          row.model,
          formatCount(row.documents),
          percent(row.keptByBoth / row.keptPairs),
          formatCount(row.questions),
          percent(row.equal / row.questions),
          row.seconds.cpu.map((each) => `${each.toFixed(0)} s`).join(', '),
          row.seconds.cuda.map((each) => `${each.toFixed(0)} s`).join(', '),
        ]),
      },
    ],
    checks: setup.quick ? [] : rows.flatMap(checksOf),
    data: rows,
  };
}

function checksOf({ model, equal, questions, keptByBoth, keptPairs }: StudyRow) {
  return [
    atLeast(0.995, {
      what: `${model}: kept by both`,
      value: keptByBoth / keptPairs,
      format: percent,
    }),
    atLeast(0.99, { what: `${model}: equal answers`, value: equal / questions, format: percent }),
  ];
}

async function compare(model: string, setup: PartSetup): Promise<StudyRow> {
  const documents = documentsFor(setup);
  const cuda = await findings('cuda', model, { documents, setup });
  const cpu = await findings('cpu', model, { documents, setup });
  const unlike = cpu.answers
    .map((answer, i) => ({ cpu: answer, cuda: cuda.answers[i] ?? '' }))
    .filter((pair) => pair.cpu !== pair.cuda);
  return {
    model,
    documents: documents.length,
    questions: cpu.answers.length,
    equal: cpu.answers.length - unlike.length,
    unlike,
    ...overlap(cpu.kept, cuda.kept),
    seconds: {
      cpu: [cpu.readSeconds, cpu.askSeconds],
      cuda: [cuda.readSeconds, cuda.askSeconds],
    },
  };
}

function documentsFor({ quick, documents }: PartSetup): readonly EvalDocument[] {
  const all = [
    ...loadHandWritten(),
    ...(documents ?? []).filter(({ split }) => split.startsWith('held')),
    ...loadProse(),
  ];
  return quick ? all.slice(0, 4) : all;
}

async function findings(
  device: 'cpu' | 'cuda',
  model: string,
  { documents, setup }: { documents: readonly EvalDocument[]; setup: PartSetup },
): Promise<Findings> {
  const lab = await openLab({ model, cacheFolder: setup.cacheFolder, device });
  try {
    setup.progress(`devices: ${model} on ${device} reads ${documents.length} documents`);
    const [contextIds, readSeconds] = await timed(async () => {
      const ids: string[] = [];
      for (const { document } of documents) ids.push(await lab.read(document, compression));
      return ids;
    });
    setup.progress(`devices: ${model} on ${device} answers`);
    const [answers, askSeconds] = await timed(() => askAll(lab, documents, contextIds));
    return { answers, kept: await lab.kept(contextIds), readSeconds, askSeconds };
  } finally {
    await lab.close();
  }
}

async function askAll(
  lab: Lab,
  documents: readonly EvalDocument[],
  contextIds: readonly string[],
): Promise<string[]> {
  const questions = documents.flatMap(({ questions: asked }, i) =>
    asked.map(({ question }) => ({ contextId: contextIds[i] as string, question, keepRatio })),
  );
  const answers: string[] = [];
  const waiting = [...questions.entries()].reverse();
  const asker = async (): Promise<void> => {
    for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
      const [i, question] = next;
      answers[i] = await lab.ask(question);
    }
  };
  await Promise.all(Array.from({ length: together }, asker));
  return answers;
}

function overlap(
  ours: Findings['kept'],
  theirs: Findings['kept'],
): { readonly keptPairs: number; readonly keptByBoth: number } {
  let [keptPairs, keptByBoth] = [0, 0];
  for (const [document, heads] of ours.entries()) {
    for (const [head, positions] of heads.entries()) {
      const other = new Set(theirs[document]?.[head]);
      keptPairs += positions.length;
      for (const position of positions) if (other.has(position)) keptByBoth++;
    }
  }
  assert(keptPairs > 0, 'something was kept');
  return { keptPairs, keptByBoth };
}

function percent(share: number): string {
  return `${(100 * share).toFixed(2)} %`;
}

async function timed<T>(work: () => Promise<T>): Promise<readonly [T, number]> {
  const startMs = performance.now();
  const result = await work();
  return [result, (performance.now() - startMs) / 1000];
}
