import { atMost } from '../../../eval/check.ts';
import type { PartReport } from '../../../eval/part.ts';
import { keptRatio, type Bench } from './bench.ts';
import { raggedLengths } from './documents.ts';

/** The pool takes memory in chunks: of several contexts together less is rounding. */
const counts = [1, 4] as const;

interface Used {
  readonly contexts: number;
  readonly fullBytes: number;
  readonly keptBytes: number;
}

/** Device memory that contexts take, by what the driver says is free. */
export async function memoryPart(bench: Bench): Promise<PartReport> {
  const { runtime, card, model, tokens } = bench;
  const usedBytes = (contexts: number, keepRatio: number): number => {
    const lengths = Array.from({ length: contexts }, (_, i) =>
      raggedLengths(runtime.layout, { tokens, keepRatio, seed: 100 + i }),
    );
    return card.contextBytes(runtime.layout, lengths);
  };
  const used = counts.map((contexts): Used => ({
    contexts,
    fullBytes: usedBytes(contexts, 1),
    keptBytes: usedBytes(contexts, keptRatio),
  }));
  const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(3);
  return {
    title: `${model.name}: device memory of contexts`,
    explanation:
      `${tokens} tokens, float16; what the driver has free before and after, of a pool that held ` +
      'nothing.',
    tables: [
      {
        title: 'GB in use',
        headers: ['contexts', 'keepRatio 1.0', `keepRatio ${keptRatio}`, 'ratio'],
        rows: used.map(({ contexts, fullBytes, keptBytes }) => [
          String(contexts),
          gigabytes(fullBytes),
          gigabytes(keptBytes),
          (keptBytes / fullBytes).toFixed(3),
        ]),
      },
    ],
    checks: used.map(({ contexts, fullBytes, keptBytes }) =>
      atMost(0.33, {
        what: `memory at ${keptRatio} / at 1.0, of ${contexts}`,
        value: keptBytes / fullBytes,
        format: (value) => value.toFixed(3),
      }),
    ),
    data: used,
  };
}
