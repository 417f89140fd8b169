import { createHash } from 'node:crypto';
import { expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { createRandom, type Random } from '../../src/core/random.ts';
import { findContext } from '../../storage/catalogue.ts';
import type { Environment } from '../../storage/environment.ts';
import { readPairs, readRanking, readTokenIds } from '../../storage/reader.ts';
import { sweepIndex } from '../../storage/sweep.ts';
import {
  entries,
  openStore,
  openTables,
  storeFolder,
  type Entry,
} from '../support/storage-harness.ts';
import { sampleContext, type SampleOptions } from '../support/storage-samples.ts';

/*
 * Flipped bits, in values and in keys. They are made inside a write transaction that is aborted in
 * the end: reads see them, and the disk is not asked to sync each.
 */

const holders = ['segments', 'rankings', 'tokens', 'catalogue', 'usage'] as const;
type Holder = (typeof holders)[number];

interface StoredSample {
  readonly env: Environment;
  readonly id: string;
  readonly heads: number;
}

async function storeSample(options: SampleOptions): Promise<StoredSample> {
  const folder = storeFolder();
  const store = await openStore({ folder });
  const { record } = sampleContext(options);
  await store.write(sampleContext(options));
  await store.write(sampleContext({ seed: options.seed + 1 }));
  return { env: openTables(folder), id: record.id, heads: record.pairCounts.length };
}

/** Runs `action` in a transaction that is then undone. */
function undone(env: Environment, action: () => void): void {
  const undo = new Error('undo');
  expect(() =>
    env.transact(() => {
      action();
      throw undo;
    }),
  ).toThrow(undo);
}

/** A digest of what one read gives, or the code of the error it throws. */
function outcome(read: () => unknown): string {
  try {
    const hash = createHash('sha256');
    const add = (value: unknown): void => {
      if (ArrayBuffer.isView(value)) {
        hash.update(new Uint8Array(value.buffer, value.byteOffset, value.byteLength));
      } else hash.update(JSON.stringify(value) ?? 'undefined');
    };
    const value = read();
    if (value === undefined) return 'not there';
    if (typeof value === 'object' && value !== null && Symbol.iterator in value) {
      for (const part of value as Iterable<unknown>) add(part);
    } else add(value);
    return hash.digest('hex');
  } catch (error) {
    if (error instanceof ReadonceError) return error.code;
    throw error;
  }
}

/** All that can be read of a context, each on its own. */
function reads({ env, id, heads }: StoredSample): ReadonlyMap<string, () => unknown> {
  const all = new Map<string, () => unknown>([
    ['get', () => findContext(env, id)?.stored],
    ['tokens', () => Object.values(readTokenIds(env, id))],
  ]);
  for (let head = 0; head < heads; head++) {
    all.set(`rankings ${head}`, () => Object.values(readRanking(env, id, head)));
    all.set(`segments ${head}`, () => pairsOf(env, id, head));
  }
  return all;
}

function* pairsOf(env: Environment, id: string, head: number): Generator<Uint8Array> {
  for (const { keys, values } of readPairs(env, { id, head, range: {} }, () => undefined)) {
    yield keys;
    yield values;
  }
}

/** Outcomes that are no wrong answer. */
const refusals = new Set(['corrupt_record', 'not_found', 'not there']);

interface Look {
  /** Reads that gave something else than before, and were not refused. */
  readonly wrong: readonly string[];
  readonly refused: boolean;
}

/** Reads a context, or only what `only` names. */
function look(sample: StoredSample, intact: ReadonlyMap<string, string>, only = ''): Look {
  const now = [...reads(sample)]
    .filter(([name]) => name.startsWith(only))
    .map(([name, read]) => ({ name, now: outcome(read) }));
  return {
    wrong: now
      .filter((each) => each.now !== intact.get(each.name) && !refusals.has(each.now))
      .map(({ name }) => name),
    refused: now.some((each) => refusals.has(each.now)),
  };
}

function intactOutcomes(sample: StoredSample): ReadonlyMap<string, string> {
  const intact = new Map([...reads(sample)].map(([name, read]) => [name, outcome(read)]));
  for (const refused of refusals) expect([...intact.values()]).not.toContain(refused);
  return intact;
}

function flipped(bytes: Buffer, at: number, mask: number): Buffer {
  const damaged = Buffer.from(bytes);
  damaged[at] = (damaged[at] ?? 0) ^ mask;
  return damaged;
}

/** What the store holds of the context itself, without the indexes. */
function ownEntries({ env, id }: StoredSample): readonly Entry[] {
  const prefix = Buffer.from(id.slice('ctx_'.length), 'hex');
  return entries(env, holders).filter(({ key }) => key.subarray(0, 20).equals(prefix));
}

const small = { seed: 1, kvHeads: 1, rowBytes: 4, kept: [3, 0] };

it('in any byte of a value of a small context are detected', async () => {
  const sample = await storeSample(small);
  const intact = intactOutcomes(sample);
  undone(sample.env, () => {
    for (const { table, key, value } of ownEntries(sample)) {
      for (let at = 0; at < value.byteLength; at++) {
        for (const mask of [1 << (at % 8), 0xff]) {
          sample.env.tables[table].putSync(key, flipped(value, at, mask));
          const seen = look(sample, intact);
          expect(seen, `${table} byte ${at}`).toEqual({ wrong: [], refused: true });
        }
      }
      sample.env.tables[table].putSync(key, value);
    }
    expect(look(sample, intact)).toEqual({ wrong: [], refused: false });
  });
});

it('in any byte of a key of a small context are detected', async () => {
  const sample = await storeSample(small);
  const intact = intactOutcomes(sample);
  undone(sample.env, () => {
    for (const entry of ownEntries(sample)) {
      for (let at = 0; at < entry.key.byteLength; at++) {
        const restore = moveEntry(sample.env, entry, flipped(entry.key, at, 1 << (at % 8)));
        const seen = look(sample, intact);
        expect(seen, `${entry.table} byte ${at}`).toEqual({ wrong: [], refused: true });
        restore();
      }
    }
    expect(look(sample, intact)).toEqual({ wrong: [], refused: false });
  });
});

/** Puts a value under another key, whatever is there; returns what undoes it. */
function moveEntry(env: Environment, { table: name, key, value }: Entry, to: Buffer): () => void {
  const table = env.tables[name];
  const replaced = table.get(to);
  table.removeSync(key);
  table.putSync(to, value);
  return () => {
    if (replaced === undefined) table.removeSync(to);
    else table.putSync(to, replaced);
    table.putSync(key, value);
  };
}

it('in a key of an index are repaired by the next sweep', async () => {
  const sample = await storeSample({ ...small, usage: { expiresAtMs: 1_800_000_000_000 } });
  const { env } = sample;
  const indexes = ['created', 'families', 'expires'] as const;
  const before = entries(env, indexes);
  for (const { table, key, value } of before) {
    for (const at of [0, key.byteLength - 1]) {
      env.transact(() => {
        env.tables[table].removeSync(key);
        env.tables[table].putSync(flipped(key, at, 2), value);
      }, 'ordered');
      sweepIndex(env);
      expect(entries(env, indexes)).toEqual(before);
    }
  }
});

/** Sixteen heads of about 300 kB. */
const large = { seed: 5, layers: 4, kvHeads: 4, rowBytes: 128, kept: [1150, 1200] };
const randomFlips = 10_000;

it('at 10,000 random places of a large context give no wrong answer', async () => {
  const sample = await storeSample(large);
  const intact = intactOutcomes(sample);
  const own = ownEntries(sample);
  const pick = byBytes(own);
  const random = createRandom(20);
  const counts = { refused: 0, wrong: 0 };
  undone(sample.env, () => {
    for (let flip = 0; flip < randomFlips; flip++) {
      // Keys and records are few bytes: flips that are spread evenly would hardly meet them.
      const entry = flip % 4 === 0 ? own[random.nextUint32() % own.length] : pick(random);
      const restore = flipSomewhere(sample.env, defined(entry, 'an entry'), random, flip % 8 === 0);
      // What does not need the entry cannot depend on it; now and then everything is read.
      const seen = look(sample, intact, flip % 500 === 0 ? '' : readOf(defined(entry, 'an entry')));
      counts.wrong += seen.wrong.length;
      counts.refused += Number(seen.refused);
      restore();
    }
  });
  expect(counts).toEqual({ refused: randomFlips, wrong: 0 });
});

function flipSomewhere(env: Environment, entry: Entry, random: Random, inKey: boolean): () => void {
  const { table, key, value } = entry;
  const bytes = inKey ? key : value;
  const damaged = flipped(
    bytes,
    random.nextUint32() % bytes.byteLength,
    1 << (random.nextUint32() % 8),
  );
  if (inKey) return moveEntry(env, entry, damaged);
  env.tables[table].putSync(key, damaged);
  return () => env.tables[table].putSync(key, value);
}

/** Chooses entries in proportion to the bytes of their values. */
function byBytes(from: readonly Entry[]): (random: Random) => Entry | undefined {
  const total = from.reduce((sum, { value }) => sum + value.byteLength, 0);
  return (random) => {
    let place = random.next() * total;
    return from.find(({ value }) => (place -= value.byteLength) < 0);
  };
}

/** The name of the read that a value is needed for. */
function readOf({ table, key }: Entry): string {
  const reader: Readonly<Record<Holder, string>> = {
    catalogue: 'get',
    usage: 'get',
    tokens: 'tokens',
    segments: `segments ${headOf(key)}`,
    rankings: `rankings ${headOf(key)}`,
  };
  return reader[table as Holder];
}

/** The flat head of a piece's key. */
function headOf(key: Buffer): number {
  if (key.byteLength < 32) return 0;
  return key.readUInt16BE(24) * large.kvHeads + key.readUInt16BE(26);
}
