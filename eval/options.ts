import { parseArgs } from 'node:util';
import { ReadonceError } from '../src/core/errors.ts';
import { documentsPath } from './datasets.ts';

/** The parts of the benchmark, in the order they run. */
export const partNames = [
  'quality',
  'reconstruction',
  'size',
  'speed',
  'batching',
  'devices',
] as const;
export type PartName = (typeof partNames)[number];

export interface BenchOptions {
  readonly parts: readonly PartName[];
  /** File that the results are written to. */
  readonly out: string;
  /** The generated documents (`documents.jsonl`); without them some rows are left out. */
  readonly documents: string | undefined;
  /** A few documents and one round: shows that everything runs, targets are not judged. */
  readonly quick: boolean;
}

export const usage = `npm run bench -- [--only ${partNames.join(',')}] [--documents PATH] [--out PATH] [--quick]`;

const defaultOut = 'bench-results/bench.json';

/** @throws ReadonceError `invalid_argument` for an unknown flag or part */
export function parseBenchOptions(
  args: readonly string[],
  environment: Readonly<Record<string, string | undefined>>,
): BenchOptions {
  const values = flagValues(args);
  const asked = values.only?.split(',');
  for (const name of asked ?? []) {
    if (partNames.some((known) => known === name)) continue;
    throw new ReadonceError(
      'invalid_argument',
      `Expected some of ${partNames.join(', ')} for --only but got ${JSON.stringify(name)}.`,
    );
  }
  return {
    // Comparing devices takes a GPU: it is done when it is asked for.
    parts: partNames.filter((name) => asked?.includes(name) ?? name !== 'devices'),
    out: values.out ?? defaultOut,
    documents: documentsPath({ option: values.documents, environment }),
    quick: values.quick ?? false,
  };
}

function flagValues(args: readonly string[]) {
  try {
    const text = { type: 'string' } as const;
    const { values } = parseArgs({
      args: [...args],
      options: { only: text, out: text, documents: text, quick: { type: 'boolean' } },
    });
    return values;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadonceError('invalid_argument', `Expected "${usage}": ${reason}`, { cause });
  }
}
