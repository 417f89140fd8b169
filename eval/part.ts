import type { EvalDocument } from './datasets.ts';
import type { Check } from './check.ts';
import type { Table } from './markdown.ts';

/** What every part of the benchmark gets. */
export interface PartSetup {
  /** A few documents and one round; the part judges nothing. */
  readonly quick: boolean;
  /** The generated documents; undefined if they are not there. */
  readonly documents: readonly EvalDocument[] | undefined;
  /** Converted weights; shared, so that a model is converted once. */
  readonly cacheFolder: string;
  /** Says how far it is. */
  readonly progress: (text: string) => void;
}

/** What a part found out. */
export interface PartReport {
  readonly title: string;
  /** What the tables mean, one sentence or more. */
  readonly explanation: string;
  readonly tables: readonly Table[];
  /** Empty in a quick run. */
  readonly checks: readonly Check[];
  /** The figures behind the tables, for the JSON file. */
  readonly data: unknown;
}

export type Part = (setup: PartSetup) => Promise<PartReport>;
