import type { HeadRange } from '../context-store.ts';
import type { SlotMemory } from './slots.ts';

/** What a thread is started with. */
export interface ReaderThreadData {
  readonly folder: string;
  readonly memory: SlotMemory;
}

/** Some rows of a context, to be read by several threads. */
export interface ReadJob {
  readonly id: string;
  readonly ranges: readonly HeadRange[];
  /** Int32, see `jobNumbers`. */
  readonly shared: SharedArrayBuffer;
}

/** Numbers that the threads of a job share: the next range to be read; not 0: no more of them. */
export const jobNumbers = { next: 0, isCancelled: 1, count: 2 } as const;
