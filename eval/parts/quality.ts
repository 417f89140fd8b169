import { formatShare } from '../../src/cli/format.ts';
import { atLeast, below, type Check } from '../check.ts';
import { documentsMissing, type EvalDocument } from '../datasets.ts';
import { openLab, type Lab } from '../lab.ts';
import type { Table } from '../markdown.ts';
import type { PartReport, PartSetup } from '../part.ts';
import { isRight } from '../score.ts';
import { contextKey, contextsFor, fullCache, variantName, type Variant } from '../variant.ts';
import { studies, type Study } from './studies.ts';

/** One question, one cache. */
interface AnswerRecord {
  readonly document: string;
  readonly variant: string;
  readonly question: string;
  readonly answer: string;
  readonly right: boolean;
}

/** Right answers with one cache. */
export interface VariantScore {
  readonly variant: Variant;
  readonly right: number;
  readonly total: number;
}

interface StudyResult {
  readonly study: Study;
  readonly scores: readonly VariantScore[];
  readonly answers: readonly AnswerRecord[];
}

/** Right answers with compressed caches, compared with the full cache. */
export async function quality(setup: PartSetup): Promise<PartReport> {
  const results: StudyResult[] = [];
  for (const study of studies(setup)) results.push(await runStudy(study, setup));
  if (setup.documents === undefined) setup.progress(`Left out: reader-mini. ${documentsMissing}`);
  return {
    title: 'Quality',
    explanation:
      'Share of questions answered exactly right, greedily, and that share relative to the full ' +
      'cache (`none`, f16). A number behind a method is the keepRatio.',
    tables: results.map(({ study, scores }) => scoresTable(study, scores)),
    checks: setup.quick ? [] : results.flatMap(({ study, scores }) => studyChecks(study, scores)),
    data: results.map(({ study: { model, name, documents }, scores, answers }) => ({
      model,
      name,
      documents: documents.length,
      scores: scores.map(({ variant, right, total }) => ({
        variant: variantName(variant),
        right,
        total,
      })),
      answers,
    })),
  };
}

async function runStudy(study: Study, setup: PartSetup): Promise<StudyResult> {
  const { model, name, documents, variants } = study;
  const answers: AnswerRecord[] = [];
  const lab = await openLab({ model, cacheFolder: setup.cacheFolder });
  try {
    for (const [i, document] of documents.entries()) {
      setup.progress(`quality: ${model}, ${name}, document ${i + 1} of ${documents.length}`);
      answers.push(...(await askAbout(lab, document, variants)));
    }
  } finally {
    await lab.close();
  }
  const scores = variants.map((variant) => {
    const own = answers.filter((answer) => answer.variant === variantName(variant));
    return { variant, right: own.filter(({ right }) => right).length, total: own.length };
  });
  return { study, scores, answers };
}

/** All questions about a document with every cache; the caches are decoded together. */
async function askAbout(
  lab: Lab,
  { id, document, questions }: EvalDocument,
  variants: readonly Variant[],
): Promise<readonly AnswerRecord[]> {
  const contextIds = new Map<string, string>();
  for (const [key, compression] of contextsFor(variants)) {
    contextIds.set(key, await lab.read(document, compression));
  }
  const byVariant = variants.map(async (variant) => {
    const contextId = contextIds.get(contextKey(variant)) ?? '';
    const records: AnswerRecord[] = [];
    for (const { question, answers } of questions) {
      const { keepRatio } = variant;
      const answer = await lab.ask({ contextId, question, keepRatio });
      const right = isRight(answer, answers);
      records.push({ document: id, variant: variantName(variant), question, answer, right });
    }
    return records;
  });
  return (await Promise.all(byVariant)).flat();
}

function scoresTable({ model, name, documents }: Study, scores: readonly VariantScore[]): Table {
  return {
    title: `${model}, ${name}, ${documents.length} documents`,
    headers: ['cache', 'right', 'share', 'of full'],
    rows: scores.map(({ variant, right, total }) => [
      variantName(variant),
      `${right}/${total}`,
      formatShare(right / total),
      formatShare(shareOfFull(scores, variant)),
    ]),
  };
}

/** A study's figures beside its targets. Baselines must fall below half of the full cache. */
export function studyChecks(
  { model, name, targets, variants }: Pick<Study, 'model' | 'name' | 'targets' | 'variants'>,
  scores: readonly VariantScore[],
): readonly Check[] {
  const format = formatShare;
  const place = `${model}, ${name}`;
  const full = scores[0];
  const checks = [
    atLeast(targets.full, {
      what: `${place}: full, right`,
      value: full === undefined ? Number.NaN : full.right / full.total,
      format,
    }),
  ];
  for (const variant of variants) {
    const what = `${place}: ${variantName(variant)}, of full`;
    const target = { what, value: shareOfFull(scores, variant), format };
    const { method, budget, keepRatio } = variant;
    const least = targets.kvzip.get(keepRatio);
    if (method === 'kvzip' && budget === 'global' && least !== undefined) {
      checks.push(atLeast(least, target));
    }
    if (method === 'random' || method === 'streaming-llm') checks.push(below(0.5, target));
  }
  return checks;
}

function shareOfFull(scores: readonly VariantScore[], variant: Variant): number {
  return rightWith(scores, variant) / rightWith(scores, fullCache);
}

function rightWith(scores: readonly VariantScore[], variant: Variant): number {
  const name = variantName(variant);
  return scores.find((score) => variantName(score.variant) === name)?.right ?? Number.NaN;
}
