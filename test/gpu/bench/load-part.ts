import { median } from '../../../eval/median.ts';
import type { PartReport } from '../../../eval/part.ts';
import { keptRatio, loadRounds, rounds, timed, timedLoad, type Bench } from './bench.ts';
import { StoredContextFiles } from './stored-context.ts';

const coldRounds = 3;
const warmRounds = 5;

interface LoadTimes {
  readonly plainMs: number;
  readonly storeMs: number;
}

/** A stored context into device memory, against a plain read of the same bytes. */
export async function loadPart(bench: Bench): Promise<PartReport> {
  const { model, rates, progress, tokens, stored } = bench;
  const makeStartMs = performance.now();
  const files = await StoredContextFiles.make(bench);
  progress(`load: written in ${((performance.now() - makeStartMs) / 1000).toFixed(1)} s`);
  try {
    const cold = await measureCold(bench, files);
    progress(`load, cold: plain ${cold.plainMs.toFixed(0)}, store ${cold.storeMs.toFixed(0)} ms`);
    await loadRounds(2, () => load(bench, files));
    const warm: LoadTimes = {
      plainMs: median(rounds(warmRounds, () => files.readPlain())),
      storeMs: median(await loadRounds(warmRounds, () => load(bench, files))),
    };
    progress(`load, warm: plain ${warm.plainMs.toFixed(0)}, store ${warm.storeMs.toFixed(0)} ms`);
    const rate = (ms: number): string => (files.pairBytes / ms / 1e6).toFixed(2);
    const row = (what: string, { plainMs, storeMs }: LoadTimes): string[] => [
      what,
      rate(storeMs),
      rate(plainMs),
      (plainMs / storeMs).toFixed(2),
      ((files.pairBytes * 1000) / storeMs / rates.hostBytes).toFixed(2),
      storeMs.toFixed(0),
    ];
    return {
      title: `${model.name}: loading a stored context`,
      explanation:
        `${(files.pairBytes / 1e9).toFixed(2)} GB of pairs, ${tokens} tokens at ${keptRatio}, ` +
        `${stored.name}; from the store, every piece verified, to device memory that is made for ` +
        'it. ' +
        'Cold: what the system held of the files was dropped. Plain: the same bytes of a file ' +
        'read into one buffer of 1 MiB. The card takes ' +
        `${(rates.hostBytes / 1e9).toFixed(1)} GB/s from page-locked memory.`,
      tables: [
        {
          title: 'GB/s',
          headers: ['', 'store → card', 'plain file', 'of the file', 'of the bus', 'ms'],
          rows: [row('cold', cold), row('warm', warm)],
        },
      ],
      checks: [],
      data: { pairBytes: files.pairBytes, cold, warm, hostBytes: rates.hostBytes },
    };
  } finally {
    await files.remove();
  }
}

async function load({ runtime, card }: Bench, files: StoredContextFiles): Promise<void> {
  const cache = await files.load(runtime);
  // Opening a view starts what is still staged.
  cache.view(cache.lengths).close();
  card.settle();
  cache.close();
}

async function measureCold(bench: Bench, files: StoredContextFiles): Promise<LoadTimes> {
  const plain: number[] = [];
  const store: number[] = [];
  for (let round = 0; round < coldRounds; round++) {
    await files.dropFromMemory();
    plain.push(timed(() => files.readPlain()));
    store.push(await timedLoad(() => load(bench, files)));
  }
  return { plainMs: median(plain), storeMs: median(store) };
}
