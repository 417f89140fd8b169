import { availableParallelism } from 'node:os';
import { formatCount } from '../../src/cli/format.ts';
import type { ReconstructionPass } from '../../src/compression/method.ts';
import { reconstructionPasses } from '../../src/compression/reconstruction.ts';
import { concatenate } from '../../src/core/concatenate.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import { tokenizeDocument, type TokenizedDocument } from '../../src/engine/document.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { runPieces } from '../../src/runtime/run-pieces.ts';
import type { DenseCache, Runtime } from '../../src/runtime/runtime.ts';
import { atLeast } from '../check.ts';
import { loadHandWritten, loadProse, type EvalDocument } from '../datasets.ts';
import type { PartReport, PartSetup } from '../part.ts';

/** Documents of one kind that a model repeats. */
interface Corpus {
  readonly model: string;
  readonly name: string;
  readonly documents: readonly EvalDocument[];
}

/** Document tokens, and those of them that the model predicted. */
export interface Repetition {
  readonly right: number;
  readonly total: number;
}

const documentCount = 24;
const longDocumentCount = 2;
const quickDocumentCount = 1;

/** Below this, scores would be drawn from a repetition that is none. */
const leastAccuracy = 0.99;

/** How well the models repeat the documents in the passes that scores are drawn from. */
export async function reconstruction(setup: PartSetup): Promise<PartReport> {
  const results: (Corpus & Repetition)[] = [];
  for (const corpus of corpora(setup)) {
    results.push({ ...corpus, ...(await repeatAll(corpus, setup)) });
  }
  return {
    title: 'Reconstruction',
    explanation:
      'Teacher-forced next-token accuracy of the reconstruction passes: of how many document ' +
      'tokens the model, made to repeat the document, gave the highest logit to the right one.',
    tables: [
      {
        title: 'Next-token accuracy of the reconstruction passes',
        headers: ['model', 'documents', 'number', 'tokens', 'accuracy'],
        rows: results.map(({ model, name, documents, right, total }) => [
          model,
          name,
          String(documents.length),
          formatCount(total),
          formatAccuracy(right / total),
        ]),
      },
    ],
    checks: setup.quick
      ? []
      : results.map(({ model, name, right, total }) =>
          atLeast(leastAccuracy, {
            what: `${model}, ${name}: accuracy`,
            value: right / total,
            format: formatAccuracy,
          }),
        ),
    data: results.map(({ model, name, documents, right, total }) => ({
      model,
      name,
      documents: documents.length,
      right,
      total,
    })),
  };
}

function corpora({ quick, documents }: PartSetup): readonly Corpus[] {
  const prose = loadProse();
  const of = (all: readonly EvalDocument[], split: string, count: number) => {
    const most = quick ? quickDocumentCount : count;
    return { name: split, documents: all.filter((one) => one.split === split).slice(0, most) };
  };
  const generated = documents ?? [];
  const corpora = [
    { model: 'reader', ...of(loadHandWritten(), 'hand-written', documentCount) },
    { model: 'reader', ...of(prose, 'prose', documentCount) },
    { model: 'reader', ...of(prose, 'prose-long', longDocumentCount) },
    { model: 'reader', ...of(generated, 'held-long', longDocumentCount) },
    { model: 'reader-mini', ...of(generated, 'held', documentCount) },
    { model: 'reader-mini', ...of(generated, 'held-long', longDocumentCount) },
  ];
  return corpora.filter(({ documents }) => documents.length > 0);
}

async function repeatAll(
  { model, name, documents }: Corpus,
  { cacheFolder, progress }: PartSetup,
): Promise<Repetition> {
  const checkpoint = await loadCheckpoint({ model, cacheFolder });
  const runtime = createOrtCpuRuntime(checkpoint, { threads: availableParallelism() });
  let [right, total] = [0, 0];
  try {
    for (const [i, { document }] of documents.entries()) {
      progress(`reconstruction: ${model}, ${name}, document ${i + 1} of ${documents.length}`);
      const repetition = repeatDocument(runtime, checkpoint, document);
      right += repetition.right;
      total += repetition.total;
    }
  } finally {
    runtime.close();
  }
  return { right, total };
}

/** Prefills a document and runs its reconstruction passes with predictions. */
export function repeatDocument(runtime: Runtime, checkpoint: Checkpoint, text: string): Repetition {
  const document = tokenizeDocument(checkpoint, {
    tenant: '',
    tenantSalt: '',
    document: text.trim(),
    instructions: undefined,
    compression: { method: 'kvzip', budget: 'global', keepRatio: 0.3, precision: 'f16' },
  });
  const passes = reconstructionPasses(document.plan);
  const ids = concatenate(document.prefixIds, document.documentIds);
  const longest = Math.max(...passes.map((pass) => passIds(document, pass).length));
  const cache = runtime.createDense(ids.length + longest);
  try {
    for (const slice of slices(runtime, ids)) runPieces(runtime.prefill(cache, slice));
    let right = 0;
    for (const pass of passes) right += repeatChunk({ runtime, cache, document, pass });
    return { right, total: document.documentIds.length };
  } finally {
    cache.close();
  }
}

interface ChunkCall {
  readonly runtime: Runtime;
  readonly cache: DenseCache;
  readonly document: TokenizedDocument;
  readonly pass: ReconstructionPass;
}

/** One pass; how many of its chunk's tokens were predicted. */
function repeatChunk({ runtime, cache, document, pass }: ChunkCall): number {
  const { prefixTokens, layout } = document.plan;
  const passStart = cache.length;
  const ids = passIds(document, pass);
  const scores = new Float32Array(headCount(layout) * (pass.chunkEnd - pass.chunkStart));
  const predictions: number[] = [];
  for (const slice of slices(runtime, ids)) {
    const predicted = new Int32Array(slice.length);
    const pieces = runtime.score(cache, {
      ids: slice,
      sinkEnd: prefixTokens,
      chunkStart: prefixTokens + pass.chunkStart,
      chunkEnd: prefixTokens + pass.chunkEnd,
      passStart,
      scores,
      predictions: predicted,
    });
    runPieces(pieces);
    predictions.push(...predicted);
  }
  cache.truncate(passStart);
  return rightPredictions({ ids, predictions, promptTokens: pass.promptIds.length });
}

export interface PassPredictions {
  /** Tokens of a pass: its prompt and the chunk. */
  readonly ids: Int32Array;
  /** For each of them, the token that was predicted behind it. */
  readonly predictions: readonly number[];
  readonly promptTokens: number;
}

/** Chunk tokens that the token before them predicted; for the first that is the prompt's last. */
export function rightPredictions({ ids, predictions, promptTokens }: PassPredictions): number {
  const chunk = ids.subarray(promptTokens);
  return chunk.filter((id, i) => predictions[promptTokens + i - 1] === id).length;
}

function passIds(document: TokenizedDocument, pass: ReconstructionPass): Int32Array {
  const chunk = document.documentIds.subarray(pass.chunkStart, pass.chunkEnd);
  return concatenate(pass.promptIds, chunk);
}

function slices({ sliceTokens }: Runtime, ids: Int32Array): readonly Int32Array[] {
  return Array.from({ length: Math.ceil(ids.length / sliceTokens) }, (_, i) =>
    ids.subarray(i * sliceTokens, (i + 1) * sliceTokens),
  );
}

function formatAccuracy(accuracy: number): string {
  return `${(accuracy * 100).toFixed(2)} %`;
}
