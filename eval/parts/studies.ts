import { loadHandWritten, loadProse } from '../datasets.ts';
import type { EvalDocument } from '../datasets.ts';
import type { PartSetup } from '../part.ts';
import { fullCache, kvzipAt, type Variant } from '../variant.ts';

/** A model, documents to ask it about, and the caches to compare. */
export interface Study {
  readonly model: string;
  /** What the documents are called in tables. */
  readonly name: string;
  readonly documents: readonly EvalDocument[];
  /** The full cache first. */
  readonly variants: readonly Variant[];
  readonly targets: StudyTargets;
}

export interface StudyTargets {
  /** Least share of answers right with the full cache. */
  readonly full: number;
  /** Least share of the full cache's right answers, by keepRatio, for `kvzip`. */
  readonly kvzip: ReadonlyMap<number, number>;
}

/** Documents of each kind that are asked about. */
const documentCount = 24;
const quickDocumentCount = 2;

const random: Variant = { method: 'random', budget: 'global', keepRatio: 0.3 };
const streamingLlm: Variant = { method: 'streaming-llm', budget: 'global', keepRatio: 0.3 };
const keyNorm: Variant = { method: 'key-norm', budget: 'global', keepRatio: 0.3 };
const kvzipUniform: Variant = { method: 'kvzip', budget: 'uniform', keepRatio: 0.3 };

const readerVariants: readonly Variant[] = [
  fullCache,
  ...[0.5, 0.3, 0.2].map(kvzipAt),
  kvzipUniform,
  random,
  streamingLlm,
  keyNorm,
];
const miniVariants: readonly Variant[] = [
  fullCache,
  ...[0.5, 0.3, 0.2, 0.1].map(kvzipAt),
  random,
  streamingLlm,
];

/** What is asked about; the generated documents only if they are there. */
export function studies({ quick, documents }: PartSetup): readonly Study[] {
  const count = quick ? quickDocumentCount : documentCount;
  const handWritten: Study = {
    model: 'reader',
    name: 'hand-written',
    documents: loadHandWritten().slice(0, count),
    variants: readerVariants,
    targets: { full: 0.92, kvzip: new Map([[0.3, 0.97]]) },
  };
  const prose: Study = {
    model: 'reader',
    name: 'prose',
    documents: loadProse().slice(0, count),
    variants: [...readerVariants, kvzipAt(0.1)],
    targets: {
      full: 0.66,
      kvzip: new Map([
        [0.3, 0.96],
        [0.2, 0.88],
      ]),
    },
  };
  if (documents === undefined) return [handWritten, prose];
  const held: Study = {
    model: 'reader-mini',
    name: 'held',
    documents: documents.filter(({ split }) => split === 'held').slice(0, count),
    variants: miniVariants,
    targets: { full: 0.86, kvzip: new Map([[0.3, 0.95]]) },
  };
  return [handWritten, prose, held];
}
