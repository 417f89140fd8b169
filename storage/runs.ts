import { assert, defined } from '../src/core/assert.ts';
import type { ContextRecord } from '../src/core/context.ts';
import type { Run } from './pieces.ts';

/** What of a record says how many rows of each kind a context has. */
type Shape = Pick<
  ContextRecord,
  'id' | 'layout' | 'compression' | 'pairCounts' | 'prefixTokens' | 'document'
>;

/** Bytes of a ranking row: position u32 and score f32. */
const rankingRowBytes = 8;
const tokenBytes = 4;

/**
 * A head's pairs: `rowBytes` is of a key or a value, a row has both. `generation`, here and below,
 * is 0 outside the store.
 */
export function pairsRun(record: Shape, flatHead: number, rowBytes: number, generation = 0): Run {
  return {
    kind: 'pairs',
    generation,
    ...place(record, flatHead),
    precision: record.compression.precision,
    rows: pairCount(record, flatHead),
    rowBytes: 2 * rowBytes,
  };
}

/** A head's ranking: what it kept of the document, without the protected prefix. */
export function rankingRun(record: Shape, flatHead: number, generation = 0): Run {
  const rows = pairCount(record, flatHead) - record.prefixTokens;
  assert(rows >= 0, 'a head keeps the prefix');
  return {
    kind: 'ranking',
    generation,
    ...place(record, flatHead),
    precision: '',
    rows,
    rowBytes: rankingRowBytes,
  };
}

/** The token ids: the prefix's, then the document's. */
export function tokensRun(record: Shape, generation = 0): Run {
  const rows = record.prefixTokens + record.document.tokens;
  return {
    kind: 'tokens',
    generation,
    id: record.id,
    layer: 0,
    head: 0,
    precision: '',
    rows,
    rowBytes: tokenBytes,
  };
}

function place(record: Shape, flatHead: number) {
  const { kvHeads } = record.layout;
  return { id: record.id, layer: Math.floor(flatHead / kvHeads), head: flatHead % kvHeads };
}

function pairCount(record: Shape, flatHead: number): number {
  return defined(record.pairCounts[flatHead], `the pair count of head ${flatHead}`);
}
