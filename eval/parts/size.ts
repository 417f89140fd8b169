import type { ServerProcess } from '../../src/cli/server-process.ts';
import { formatBytes, formatCount, formatShare } from '../../src/cli/format.ts';
import type { ReadonceClient } from '../../src/client/client.ts';
import type { Answer, Context } from '../../src/client/types.ts';
import { headCount, pairBytes } from '../../src/core/kv-layout.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { kvLayout } from '../../src/model/config.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import { ingest, withServer } from '../bench-server.ts';
import type { Check } from '../check.ts';
import { loadHandWritten, loadProse, type EvalQuestion } from '../datasets.ts';
import { engineMemory, restartEngine } from '../engine-process.ts';
import { joinDocuments } from '../joined-document.ts';
import type { Table } from '../markdown.ts';
import type { PartReport, PartSetup } from '../part.ts';

/** A document to measure. */
interface Subject {
  readonly name: string;
  readonly document: string;
  readonly questions: readonly EvalQuestion[];
}

/** What a context should keep and what it does. */
interface SizeRow {
  readonly document: string;
  readonly tokens: number;
  readonly keepRatio: number;
  readonly pairsExpected: number;
  readonly size: Context['size'];
  /** Bytes of the pairs that the first question loaded. */
  readonly loadedBytes: number;
  /** `storedBytes` that `pairsKept` pairs take in f16. */
  readonly bytesExpected: number;
}

/** Memory of a fresh engine after one question on a context. */
interface MemoryRow {
  readonly keepRatio: number;
  readonly pairs: number;
  readonly anonymousBytes: number;
}

const model = 'reader';
const keepRatios = [1, 0.5, 0.3, 0.2] as const;
/** Long enough that its cache stands out in the engine's memory. */
const longTokens = 3000;
const f16Bytes = 2;

/** What contexts keep, store and load, asked of a real server. */
export async function size(setup: PartSetup): Promise<PartReport> {
  const { cacheFolder } = setup;
  const checkpoint = await loadCheckpoint({ model, cacheFolder });
  const geometry = modelGeometry(checkpoint);
  const rows: SizeRow[] = [];
  const memory: MemoryRow[] = [];
  await withServer(async (server) => {
    for (const subject of subjects(setup, checkpoint)) {
      setup.progress(`size: ${subject.name}`);
      const contexts: Context[] = [];
      for (const keepRatio of keepRatios) {
        const context = await store(server.client, subject, keepRatio);
        const answer = await ask(server.client, context, subject);
        contexts.push(context);
        rows.push(sizeRow(subject, { context, answer }, geometry));
      }
      if (subject.name !== longName) continue;
      for (const context of contexts) memory.push(await loadAlone(server, context, subject));
    }
  });
  return {
    title: 'Size',
    explanation:
      'Pairs kept of all layers and KV heads against `round(keepRatio · L · H · n)` and the ' +
      'protected ones; stored: keys and values; on disk: everything that the store counts for the ' +
      'context, token ids and scores included; loaded: what a question read. keepRatio 1 is ' +
      'method `none`.',
    tables: [sizeTable(rows), ...(memory.length === 0 ? [] : [memoryTable(memory)])],
    checks: setup.quick ? [] : sizeChecks(rows),
    data: { rows, memory },
  };
}

const longName = 'prose, joined';

function subjects({ quick }: PartSetup, { tokenizer }: Checkpoint): readonly Subject[] {
  const prose = loadProse();
  const named = [...loadHandWritten().slice(0, 2), ...prose.slice(0, 2)];
  const short = named.map(({ id, document, questions }) => ({ name: id, document, questions }));
  if (quick) return short.slice(0, 1);
  const countTokens = (text: string): number => tokenizer.encode(text).length;
  const long = joinDocuments(prose, { tokens: longTokens, countTokens });
  return [...short, { name: longName, ...long }];
}

interface Geometry {
  readonly heads: number;
  readonly prefixTokens: number;
  readonly bytesOf: (pairs: number) => number;
}

function modelGeometry({ config, template }: Checkpoint): Geometry {
  const layout = kvLayout(config);
  return {
    heads: headCount(layout),
    prefixTokens: template.prefixIds(undefined).length,
    bytesOf: (pairs) => pairBytes(layout, pairs, f16Bytes),
  };
}

function store(client: ReadonceClient, subject: Subject, keepRatio: number): Promise<Context> {
  const compression = keepRatio === 1 ? { method: 'none' } : { method: 'kvzip', keepRatio };
  return ingest(client, { document: subject.document, compression });
}

function ask(client: ReadonceClient, { id }: Context, subject: Subject): Promise<Answer> {
  const query = subject.questions[0]?.question ?? '';
  return client.query(id, { query, temperature: 0, maxTokens: 8 });
}

function sizeRow(
  subject: Subject,
  { context, answer }: { readonly context: Context; readonly answer: Answer },
  { heads, prefixTokens, bytesOf }: Geometry,
): SizeRow {
  const { keepRatio } = context.compression;
  const { tokens } = context.document;
  return {
    document: subject.name,
    tokens,
    keepRatio,
    pairsExpected: Math.round(keepRatio * heads * tokens) + heads * prefixTokens,
    size: context.size,
    loadedBytes: answer.cache.bytes,
    bytesExpected: bytesOf(context.size.pairsKept),
  };
}

async function loadAlone(
  server: ServerProcess,
  context: Context,
  subject: Subject,
): Promise<MemoryRow> {
  await restartEngine(server);
  const { cache } = await ask(server.client, context, subject);
  const { anonymousBytes } = engineMemory(server);
  return { keepRatio: context.compression.keepRatio, pairs: cache.pairs, anonymousBytes };
}

function sizeTable(rows: readonly SizeRow[]): Table {
  return {
    title: `${model}: pairs and bytes`,
    headers: [
      'document',
      'tokens',
      'keepRatio',
      'pairs expected',
      'pairs kept',
      'full',
      'stored',
      'on disk',
      'loaded',
      'stored of full',
      'disk of full',
    ],
    rows: rows.map(({ document, tokens, keepRatio, pairsExpected, size, loadedBytes }) => [
      document,
      formatCount(tokens),
      String(keepRatio),
      formatCount(pairsExpected),
      formatCount(size.pairsKept),
      formatBytes(size.fullBytes),
      formatBytes(size.storedBytes),
      formatBytes(size.diskBytes),
      formatBytes(loadedBytes),
      formatShare(size.storedBytes / size.fullBytes),
      formatShare(size.diskBytes / size.fullBytes),
    ]),
  };
}

function memoryTable(rows: readonly MemoryRow[]): Table {
  const compact = rows.at(-1);
  return {
    title: `${model}: anonymous memory of a fresh engine after one question on the long document`,
    headers: ['keepRatio', 'pairs loaded', 'memory', `more than at ${compact?.keepRatio}`],
    rows: rows.map(({ keepRatio, pairs, anonymousBytes }) => [
      String(keepRatio),
      formatCount(pairs),
      formatBytes(anonymousBytes),
      formatBytes(anonymousBytes - (compact?.anonymousBytes ?? Number.NaN)),
    ]),
  };
}

function sizeChecks(rows: readonly SizeRow[]): readonly Check[] {
  const exact = (what: string, isExact: (row: SizeRow) => boolean): Check => {
    const count = rows.filter(isExact).length;
    return {
      what,
      measured: `${count} of ${rows.length} contexts`,
      target: 'all',
      passed: count === rows.length,
    };
  };
  return [
    exact(
      'pairs kept are round(keepRatio · L · H · n) + protected',
      ({ size, pairsExpected }) => size.pairsKept === pairsExpected,
    ),
    exact(
      'stored bytes are those of the pairs kept in f16',
      ({ size, bytesExpected }) => size.storedBytes === bytesExpected,
    ),
    exact(
      'a question loads the stored bytes, no more',
      ({ size, loadedBytes }) => loadedBytes === size.storedBytes,
    ),
  ];
}
