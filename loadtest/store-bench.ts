/**
 * How fast the context store writes and reads, against a plain file of the same bytes in the same
 * run, and how its file grows: `npm run bench:store [-- --megabytes 128 --rounds 7 --cycles 500]`.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, fsyncSync, mkdtempSync, openSync, readSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { median } from '../eval/median.ts';
import { createRandom } from '../src/core/random.ts';
import { crc32 } from '../storage/checksum.ts';
import { openContextStore } from '../storage/open-store.ts';
import { benchContext, pairsBytes, type BenchShape } from './store-contexts.ts';
import { measureGrowth } from './store-growth.ts';

const { values: options } = parseArgs({
  options: {
    megabytes: { type: 'string', default: '128' },
    rounds: { type: 'string', default: '7' },
    cycles: { type: 'string', default: '500' },
    /** Where the files are made and removed; a memory file system measures something else. */
    folder: { type: 'string', default: tmpdir() },
  },
});

/** Bytes of one read or write of the plain file: what a piece of the store has. */
const chunkBytes = 64 * 1024;

/** Seconds of one way of doing a thing, by its name, a number for each round. */
type Timings = Map<string, number[]>;

async function timed(timings: Timings, name: string, action: () => unknown): Promise<void> {
  const startMs = performance.now();
  await action();
  const seconds = (performance.now() - startMs) / 1000;
  timings.set(name, [...(timings.get(name) ?? []), seconds]);
}

/** The `bytes` of a context's pairs, written one after another and synced. */
function writePlain(path: string, context: ReturnType<typeof benchContext>): void {
  const file = openSync(path, 'w');
  try {
    for (const head of context.record.pairCounts.keys()) {
      const { keys, values } = context.pairs(head);
      for (const column of [keys, values]) {
        for (let start = 0; start < column.byteLength; start += chunkBytes) {
          writeSync(file, column.subarray(start, start + chunkBytes));
        }
      }
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}

/** Reads a file into one buffer again and again, as the store does with pieces. */
function readPlain(path: string, check: (chunk: Uint8Array) => void): void {
  const chunk = new Uint8Array(chunkBytes);
  const file = openSync(path, 'r');
  try {
    for (;;) {
      const got = readSync(file, chunk);
      if (got === 0) return;
      check(chunk.subarray(0, got));
    }
  } finally {
    closeSync(file);
  }
}

/** Reads a file into memory that stays. */
function readWhole(path: string, bytes: number): void {
  const whole = new Uint8Array(bytes);
  const file = openSync(path, 'r');
  try {
    for (let filled = 0; filled < bytes;) {
      filled += readSync(file, whole, filled, Math.min(chunkBytes, bytes - filled), null);
    }
  } finally {
    closeSync(file);
  }
}

/** Asks the system to forget what it holds of a file in memory. */
function dropFromMemory(path: string): void {
  execFileSync('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0'], {
    stdio: 'ignore',
  });
}

async function measureSpeed(folder: string, shape: BenchShape): Promise<Timings> {
  const timings: Timings = new Map();
  const plain = join(folder, 'plain');
  const storeFolder = join(folder, 'store');
  const context = benchContext(1, shape);
  const bytes = pairsBytes(shape);
  const { id } = context.record;
  let store = await openContextStore({ folder: storeFolder });
  const readStoreWhole = (): void => {
    const whole = new Uint8Array(bytes);
    let filled = 0;
    for (const head of context.record.pairCounts.keys()) {
      for (const { keys, values } of store.readPairs(id, head)) {
        whole.set(keys, filled);
        whole.set(values, filled + keys.byteLength);
        filled += keys.byteLength + values.byteLength;
      }
    }
  };
  const readStore = (): void => {
    for (const head of context.record.pairCounts.keys()) {
      for (const _piece of store.readPairs(id, head));
    }
  };
  for (let round = 0; round < Number(options.rounds); round++) {
    await timed(timings, 'write: plain file', () => writePlain(plain, context));
    await timed(timings, 'write: store', () => store.write(context));
    await timed(timings, 'first read: plain file', () => readPlain(plain, () => undefined));
    await timed(timings, 'first read: store', readStore);
    await timed(timings, 'read: plain file', () => readPlain(plain, () => undefined));
    await timed(timings, 'read: store', readStore);
    await timed(timings, 'read: plain file, checked', () =>
      readPlain(plain, (part) => void crc32(part)),
    );
    await timed(timings, 'read into memory: plain file', () => readWhole(plain, bytes));
    await timed(timings, 'read into memory: store', readStoreWhole);
    await store.close();
    for (const file of [plain, join(storeFolder, 'data.mdb')]) dropFromMemory(file);
    store = await openContextStore({ folder: storeFolder });
    await timed(timings, 'cold read: plain file', () => readPlain(plain, () => undefined));
    await timed(timings, 'cold read: store', readStore);
    await store.delete(id);
    rmSync(plain);
  }
  await store.close();
  return timings;
}

/** Median over the rounds of how much faster `of` was than `against` in the same round. */
function speedRatio(timings: Timings, of: string, against: string): number {
  const ours = timings.get(of) ?? [];
  return median((timings.get(against) ?? []).map((seconds, i) => seconds / (ours[i] ?? 1)));
}

/** How much faster the best round of `of` was than the best of `against`. */
function bestRatio(timings: Timings, of: string, against: string): number {
  return Math.min(...(timings.get(against) ?? [])) / Math.min(...(timings.get(of) ?? []));
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

async function main(folder: string): Promise<void> {
  const megabytes = Number(options.megabytes);
  const shape = { layers: 30, kvHeads: 3, rowBytes: 128, bytes: megabytes * 1e6 };
  const timings = await measureSpeed(folder, shape);
  const bytes = pairsBytes(shape);
  print(
    `One context of ${(bytes / 1e6).toFixed(0)} MB in 90 heads; ${options.rounds} rounds: median, best`,
  );
  for (const [name, seconds] of timings) {
    const speeds = [median(seconds), Math.min(...seconds)].map((time) => bytes / time / 1e9);
    print(`  ${name.padEnd(30)} ${speeds.map((speed) => speed.toFixed(2)).join('  ')} GB/s`);
  }
  print('Store against the plain file of the same bytes: median of the rounds, best of both');
  const ratios = [
    ['write', 'write: store', 'write: plain file', '>= 0.5'],
    ['read', 'read: store', 'read: plain file', '>= 0.8'],
    ['first read after a write', 'first read: store', 'first read: plain file', ''],
    ['read, the file checked too', 'read: store', 'read: plain file, checked', ''],
    ['read into memory', 'read into memory: store', 'read into memory: plain file', ''],
    ['cold read', 'cold read: store', 'cold read: plain file', ''],
  ] as const;
  for (const [name, of, against, wanted] of ratios) {
    const both = [speedRatio(timings, of, against), bestRatio(timings, of, against)];
    print(`  ${name.padEnd(30)} ${both.map((ratio) => ratio.toFixed(2)).join('  ')} ${wanted}`);
  }
  const growth = await measureGrowth(join(folder, 'growth'), {
    cycles: Number(options.cycles),
    random: createRandom(1),
  });
  print(`${options.cycles} puts and as many deletes of contexts of ${growth.sizes}`);
  print(
    `  file ${(growth.fileBytes / 1e6).toFixed(1)} MB, live at most ${(growth.livePeakBytes / 1e6).toFixed(1)} MB`,
  );
  print(
    `  ${'file / live peak'.padEnd(30)} ${(growth.fileBytes / growth.livePeakBytes).toFixed(2)} <= 1.3`,
  );
}

const work = mkdtempSync(join(options.folder, 'readonce-store-bench-'));
try {
  await main(work);
} finally {
  rmSync(work, { recursive: true, force: true });
}
