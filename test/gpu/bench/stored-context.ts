import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { defined } from '../../../src/core/assert.ts';
import { systemClock } from '../../../src/core/clock.ts';
import type { ContextRecord } from '../../../src/core/context.ts';
import type { KvLayout } from '../../../src/core/kv-layout.ts';
import type { Precision } from '../../../src/core/precision.ts';
import type { ContextCache, Runtime } from '../../../src/runtime/runtime.ts';
import { contextLengths } from '../../../src/engine/context-rows.ts';
import { loadPieceBytes, RowFilling } from '../../../src/engine/row-filling.ts';
import type { ContextStore, ContextWrite } from '../../../storage/context-store.ts';
import { readerThreads } from '../../../src/engine/reader-threads.ts';
import { openContextStore } from '../../../storage/open-store.ts';
import { keptRatio, prefixTokens, type Bench } from './bench.ts';
import { randomIds, raggedLengths, totalRows } from './documents.ts';
import { randomHalves } from './random-source.ts';
import { elementBytes } from './shapes.ts';

const contextId = `ctx_${'5'.repeat(40)}`;
const familyId = `fam_${'5'.repeat(40)}`;
/** Random numbers that rows are taken from, longer than a head's rows. */
const noiseBytes = 64 * 1024 * 1024;
/** Ample for threads to start. */
const threadsMs = 1000;
/** Bytes of one read of the plain file. */
const readBytes = 1024 * 1024;

/** A compact context in a store, and a plain file of the same bytes beside it. */
export class StoredContextFiles {
  /** Of all keys and values. */
  readonly pairBytes: number;
  readonly #folder: string;
  readonly #buffer = new Uint8Array(readBytes);
  #store: ContextStore;

  private constructor(folder: string, store: ContextStore, pairBytes: number) {
    this.#folder = folder;
    this.#store = store;
    this.pairBytes = pairBytes;
  }

  /** Writes both, durably. */
  static async make(bench: Bench): Promise<StoredContextFiles> {
    const folder = mkdtempSync(join(bench.folder, 'context-'));
    const store = await openStore(join(folder, 'store'));
    const write = contextWrite(bench);
    await store.write(write);
    const rowBytes = write.encodedBytes(1);
    const pairBytes = 2 * rowBytes * totalRows(write.record.pairCounts);
    const files = new StoredContextFiles(folder, store, pairBytes);
    writePlain(files.#plain, write);
    return files;
  }

  get #plain(): string {
    return join(this.#folder, 'plain');
  }

  /** Reads the context as the engine does; whoever needs it waits for the device. */
  async load(runtime: Runtime): Promise<ContextCache> {
    const { record } = defined(this.#store.get(contextId), 'the stored context');
    const lengths = contextLengths(this.#store, record, record.compression.keepRatio);
    const cache = runtime.createContext(lengths);
    try {
      const options = { store: this.#store, clock: systemClock, pieceBytes: loadPieceBytes };
      const filling = RowFilling.begin(options, { record, cache, from: undefined });
      while (filling?.advance() === false) await filling.ready();
      return cache;
    } catch (error) {
      cache.close();
      throw error;
    }
  }

  /** Reads the plain file into one buffer again and again. */
  readPlain(): void {
    const file = openSync(this.#plain, 'r');
    try {
      while (readSync(file, this.#buffer) > 0);
    } finally {
      closeSync(file);
    }
  }

  /** Makes the system forget what it holds of both files in memory. */
  async dropFromMemory(): Promise<void> {
    await this.#store.close();
    for (const path of [this.#plain, join(this.#folder, 'store', 'data.mdb')]) {
      execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], {
        stdio: 'ignore',
      });
    }
    this.#store = await openStore(join(this.#folder, 'store'));
  }

  async remove(): Promise<void> {
    await this.#store.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

/** A store as the engine has it, when its threads are there. */
async function openStore(folder: string): Promise<ContextStore> {
  const store = await openContextStore({ folder, readerThreads: readerThreads() });
  await sleep(threadsMs);
  return store;
}

/** Random rows in the lengths that a document leaves at 0.3. */
function contextWrite({ runtime, model, tokens, stored }: Bench): ContextWrite {
  const { layout } = runtime;
  const rowBytes = stored.encodedBytes(1, layout.headDim);
  const lengths = raggedLengths(layout, { tokens, keepRatio: keptRatio, seed: 100 });
  const noise = new Uint8Array(randomHalves(noiseBytes / elementBytes, 1).buffer);
  const documentTokens = tokens - prefixTokens;
  const positions = Uint32Array.from({ length: documentTokens }, (_, i) => i);
  const scores = new Float32Array(documentTokens);
  const side = (head: number, rows: number): Uint8Array => {
    const start = (head * 37 * rowBytes) % (noiseBytes - rows * rowBytes);
    return noise.subarray(start, start + rows * rowBytes);
  };
  const { vocabSize } = model.config;
  return {
    record: contextRecord(layout, { lengths, documentTokens, precision: stored.name }),
    timings: () => ({ prefillMs: 0, scoreMs: 0, persistMs: 0, totalMs: 0 }),
    usage: { lastUsedAtMs: Date.now(), expiresAtMs: null, pinned: false, labels: {} },
    prefixIds: randomIds(prefixTokens, vocabSize, 500),
    documentIds: randomIds(documentTokens, vocabSize, 501),
    encodedBytes: (rows) => rows * rowBytes,
    pairs: (head) => {
      const rows = defined(lengths[head], 'a head');
      return { rows, keys: side(2 * head, rows), values: side(2 * head + 1, rows) };
    },
    ranking: (head) => {
      const rows = defined(lengths[head], 'a head') - prefixTokens;
      return { positions: positions.subarray(0, rows), scores: scores.subarray(0, rows) };
    },
  };
}

function contextRecord(
  layout: KvLayout,
  options: { lengths: Uint32Array; documentTokens: number; precision: Precision['name'] },
): Omit<ContextRecord, 'timings'> {
  const { lengths, documentTokens, precision } = options;
  return {
    id: contextId,
    family: familyId,
    tenant: '',
    model: { id: 'random', fingerprint: 'sha256:00' },
    document: { bytes: documentTokens, tokens: documentTokens, sha256: '00' },
    compression: { method: 'kvzip', keepRatio: keptRatio, budget: 'global', precision },
    methodVersion: 1,
    chunkTokens: 2000,
    fidelity: null,
    layout,
    prefixTokens,
    pairCounts: [...lengths],
    createdAtMs: Date.now(),
  };
}

function writePlain(path: string, write: ContextWrite): void {
  const file = openSync(path, 'w');
  try {
    for (const head of write.record.pairCounts.keys()) {
      const { keys, values } = write.pairs(head);
      writeSync(file, keys);
      writeSync(file, values);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
