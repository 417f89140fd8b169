import { atMost } from '../../../eval/check.ts';
import { median } from '../../../eval/median.ts';
import type { PartReport } from '../../../eval/part.ts';
import { defined } from '../../../src/core/assert.ts';
import { headCount } from '../../../src/core/kv-layout.ts';
import type { ContextCache, ContextView, ForwardSlot } from '../../../src/runtime/runtime.ts';
import { keptRatio, questionTokens, timed, type Bench } from './bench.ts';
import { randomIds, raggedLengths, totalRows } from './documents.ts';
import { stepWeightBytes } from './shapes.ts';

const batch = 16;
const warmSteps = 5;
const wallSteps = 30;
const deviceSteps = 7;
/** Left for tails and whatever a call takes. */
const spareBytes = 3e9;
/** Lengths of documents that do not fit are rounded down to a multiple. */
const tokenStep = 1024;

/** Steps of some requests on some contexts. */
interface StepFigures {
  readonly requests: number;
  readonly contexts: number;
  readonly keepRatio: number;
  /** The runtime's whole call, host and device. */
  readonly wallMs: number;
  /** The captured step alone. */
  readonly deviceMs: number;
  /** What has to be read and written, at the rate of a copy. */
  readonly floorMs: number;
  readonly bytes: number;
}

/** Decode steps at a long context against the time that reading what they need takes. */
export async function decodePart(bench: Bench): Promise<PartReport> {
  const tokens = tokensThatFit(bench);
  const figures = [1, keptRatio].flatMap((keepRatio) => measureRatio(bench, { tokens, keepRatio }));
  const find = (requests: number, contexts: number, keepRatio: number): StepFigures => {
    const found = figures.find(
      (each) =>
        each.requests === requests && each.contexts === contexts && each.keepRatio === keepRatio,
    );
    return defined(found, `figures of ${requests} on ${contexts} at ${keepRatio}`);
  };
  const [full, kept] = [find(batch, batch, 1), find(batch, batch, keptRatio)];
  const format = (value: number): string => value.toFixed(3);
  return {
    title: `${bench.model.name}: decode steps`,
    explanation:
      `A step of each request at ${tokens} tokens of context, float16. Wall: the runtime's call, ` +
      `median of ${wallSteps}; device: the captured step alone. Floor: weights, rows and new ` +
      `rows once at the card's copy rate. Lengths at ${keptRatio} are ragged, each head 0.2 to ` +
      '1.8 of the mean.',
    tables: [stepTable(figures)],
    checks: [
      atMost(1.35, {
        what: `${batch} × ${keptRatio}: device time / floor`,
        value: kept.deviceMs / kept.floorMs,
        format,
      }),
      atMost(0.62, {
        what: `${batch} × ${keptRatio} / ${batch} × 1.0`,
        value: kept.deviceMs / full.deviceMs,
        format,
      }),
      atMost(0.5, {
        what: `${batch} queries on one context / on ${batch}, at 1.0`,
        value: find(batch, 1, 1).deviceMs / full.deviceMs,
        format,
      }),
    ],
    data: { tokens, figures },
  };
}

function stepTable(figures: readonly StepFigures[]): PartReport['tables'][number] {
  const ms = (value: number): string => value.toFixed(3);
  return {
    title: 'Milliseconds a step',
    headers: [
      'requests × keepRatio',
      'wall',
      'device',
      'floor',
      'device / floor',
      'GB',
      'tokens/s (wall)',
    ],
    rows: figures.map((each) => [
      `${each.requests} × ${each.keepRatio.toFixed(1)}` +
        (each.contexts < each.requests ? ', one context' : ''),
      ms(each.wallMs),
      ms(each.deviceMs),
      ms(each.floorMs),
      (each.deviceMs / each.floorMs).toFixed(2),
      (each.bytes / 1e9).toFixed(2),
      ((each.requests * 1000) / each.wallMs).toFixed(0),
    ]),
  };
}

/** Fewer than asked for where the card has no room for 16 whole contexts. */
function tokensThatFit({ runtime, card, tokens, progress }: Bench): number {
  const tokenBytes = batch * headCount(runtime.layout) * runtime.rowBytes;
  const most = Math.floor((card.freeBytes() - spareBytes) / tokenBytes);
  if (most >= tokens) return tokens;
  const fitting = Math.floor(most / tokenStep) * tokenStep;
  progress(`decode: ${batch} contexts of ${tokens} tokens do not fit; ${fitting} tokens instead`);
  return fitting;
}

function measureRatio(
  bench: Bench,
  { tokens, keepRatio }: { readonly tokens: number; readonly keepRatio: number },
): readonly StepFigures[] {
  const { runtime, card, progress } = bench;
  const contexts: ContextCache[] = [];
  try {
    for (let i = 0; i < batch; i++) {
      const lengths = raggedLengths(runtime.layout, { tokens, keepRatio, seed: 100 + i });
      const context = runtime.createContext(lengths);
      contexts.push(context);
      card.fill(context);
    }
    progress(`decode: ${batch} contexts at ${keepRatio} made`);
    const views = contexts.map((context) => context.view(context.lengths));
    const first = defined(views[0], 'a view');
    return [
      measure(bench, [first], { tokens, keepRatio }),
      measure(bench, views, { tokens, keepRatio }),
      measure(
        bench,
        Array.from({ length: batch }, () => first),
        { tokens, keepRatio },
      ),
    ];
  } finally {
    for (const context of contexts) context.close();
  }
}

function measure(
  bench: Bench,
  views: readonly ContextView[],
  { tokens, keepRatio }: { readonly tokens: number; readonly keepRatio: number },
): StepFigures {
  const { runtime, card, model, rates, progress } = bench;
  const { vocabSize } = model.config;
  const requests = views.map((context, i) => ({
    context,
    tail: runtime.createTail(),
    question: randomIds(questionTokens, vocabSize, 200 + i),
  }));
  const ids = randomIds(views.length, vocabSize, 300);
  try {
    for (const { context, tail, question } of requests) {
      runtime.forward([{ context, tail, ids: question, startPosition: tokens }]);
    }
    const step = (): void => {
      const slots = requests.map(({ context, tail }, i): ForwardSlot => ({
        context,
        tail,
        ids: ids.subarray(i, i + 1),
        startPosition: tokens + tail.length,
      }));
      for (const logits of runtime.forward(slots)) logits.argmax();
    };
    for (let i = 0; i < warmSteps; i++) step();
    const wallMs = median(Array.from({ length: wallSteps }, () => timed(step)));
    const deviceMs = median(
      card.timeSteps(() => {
        for (let i = 0; i < deviceSteps; i++) step();
      }),
    );
    const distinct = new Set(views);
    const contextRows = [...distinct].reduce((sum, { lengths }) => sum + totalRows(lengths), 0);
    const tailRows = requests.reduce((sum, { tail }) => sum + tail.length + 1, 0);
    const rows = contextRows + tailRows * headCount(runtime.layout);
    const bytes = stepWeightBytes(model.config) + rows * runtime.rowBytes;
    const floorMs = (bytes * 1000) / rates.copyBytes;
    const figures = {
      requests: views.length,
      contexts: distinct.size,
      keepRatio,
      wallMs,
      deviceMs,
      floorMs,
      bytes,
    };
    progress(
      `decode: ${figures.requests} on ${figures.contexts} at ${keepRatio}: wall ` +
        `${wallMs.toFixed(3)}, device ${deviceMs.toFixed(3)}, floor ${floorMs.toFixed(3)} ms`,
    );
    return figures;
  } finally {
    for (const { tail } of requests) tail.close();
  }
}
