import type { Random } from '../src/core/random.ts';
import { openContextStore } from '../storage/open-store.ts';
import { benchContext, benchId } from './store-contexts.ts';

/** How a store's file grew under changing contexts. */
export interface Growth {
  readonly fileBytes: number;
  /** The most that the contexts present at one time took. */
  readonly livePeakBytes: number;
  /** In words. */
  readonly sizes: string;
}

/** Contexts present at most, and the range of their sizes: evenly spread on a logarithmic scale. */
const [most, smallestBytes, largestBytes] = [16, 100e3, 10e6];

/**
 * Puts contexts of mixed sizes, and deletes random ones as soon as there are more than 16, until
 * `cycles` were put and all but those are deleted; then deletes the rest.
 */
export async function measureGrowth(
  folder: string,
  { cycles, random }: { readonly cycles: number; readonly random: Random },
): Promise<Growth> {
  const store = await openContextStore({ folder });
  const live = new Map<string, number>();
  let livePeakBytes = 0;
  const deleteOne = async (): Promise<void> => {
    const ids = [...live.keys()];
    const id = ids[Math.floor(random.next() * ids.length)] ?? benchId(0);
    await store.delete(id);
    live.delete(id);
  };
  for (let cycle = 1; cycle <= cycles; cycle++) {
    const bytes = smallestBytes * (largestBytes / smallestBytes) ** random.next();
    const shape = { layers: 30, kvHeads: 3, rowBytes: 128, bytes };
    const { record, diskBytes } = await store.write(benchContext(cycle, shape));
    live.set(record.id, diskBytes);
    livePeakBytes = Math.max(
      livePeakBytes,
      [...live.values()].reduce((sum, size) => sum + size, 0),
    );
    if (live.size > most) await deleteOne();
  }
  while (live.size > 0) await deleteOne();
  const { fileBytes } = store.stats();
  await store.close();
  return { fileBytes, livePeakBytes, sizes: '0.1 to 10 MB, 16 at a time' };
}
