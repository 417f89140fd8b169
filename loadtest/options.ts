import { parseArgs } from 'node:util';
import { ReadonceError } from '../src/core/errors.ts';

/** The scenarios, in the order they run: what is compared is measured soon after one another. */
export const scenarioNames = [
  'single',
  'reuse',
  'baseline',
  'stream',
  'mixed',
  'cold',
  'burst',
  'clients',
  'soak',
] as const;
export type ScenarioName = (typeof scenarioNames)[number];

/** Run only when they are asked for: they take long and are compared with nothing. */
const longNames: ReadonlySet<ScenarioName> = new Set(['clients', 'soak']);

/** What must have run before, in the same run, because a scenario is compared with it. */
export const scenarioNeeds: Readonly<Record<ScenarioName, readonly ScenarioName[]>> = {
  single: [],
  reuse: ['single'],
  baseline: ['single', 'reuse'],
  stream: ['single'],
  mixed: [],
  cold: ['single'],
  burst: [],
  clients: [],
  soak: [],
};

export interface LoadTestOptions {
  /** An embedded model, or whatever `READONCE_MODEL` takes. */
  readonly model: string;
  readonly scenarios: readonly ScenarioName[];
  /** Small documents and short phases: shows that everything runs, speed is not judged. */
  readonly quick: boolean;
  /** How long *soak* goes on. */
  readonly minutes: number;
  /** The report; charts and figures are written next to it. */
  readonly out: string;
}

export const usage =
  `npm run loadtest -- [--only ${scenarioNames.join(',')}] ` +
  '[--model reader|reader-mini] [--quick] [--minutes N] [--out PATH.md]';

const defaultMinutes = 20;
const quickMinutes = 0.5;
/** A day: past that, the samples of memory would fill a report. */
const maxMinutes = 1440;

/** @throws ReadonceError `invalid_argument` for an unknown flag or scenario, or a bad number */
export function parseLoadTestOptions(args: readonly string[]): LoadTestOptions {
  const values = flagValues(args);
  const asked = values.only?.split(',');
  const scenarios = selectScenarios(asked);
  const quick = values.quick ?? false;
  return {
    model: values.model ?? 'reader',
    scenarios,
    quick,
    minutes: minutesOf(values.minutes) ?? (quick ? quickMinutes : defaultMinutes),
    out: outOf(values.out) ?? defaultOut({ asked, quick }),
  };
}

/** The named scenarios (undefined: the usual ones) and what they need, in the order they run. */
export function selectScenarios(asked: readonly string[] | undefined): readonly ScenarioName[] {
  const named = (asked ?? scenarioNames.filter((name) => !longNames.has(name))).map((name) => {
    const known = scenarioNames.find((one) => one === name);
    if (known !== undefined) return known;
    throw new ReadonceError(
      'invalid_argument',
      `Expected some of ${scenarioNames.join(', ')} for --only but got ${JSON.stringify(name)}.`,
    );
  });
  const wanted = new Set([...named, ...named.flatMap((name) => scenarioNeeds[name])]);
  return scenarioNames.filter((name) => wanted.has(name));
}

/** A run of some scenarios, or a quick one, must not replace the report of a whole run. */
function defaultOut(run: {
  readonly asked: readonly string[] | undefined;
  readonly quick: boolean;
}): string {
  const name = ['report', ...(run.asked ?? [])].join('-');
  return `${run.quick ? 'bench-results/loadtest' : 'loadtest'}/${name}.md`;
}

function outOf(out: string | undefined): string | undefined {
  if (out === undefined || out.endsWith('.md')) return out;
  const message = `Expected a file that ends in .md for --out but got ${JSON.stringify(out)}.`;
  throw new ReadonceError('invalid_argument', message);
}

function minutesOf(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  const minutes = Number(text);
  if (minutes > 0 && minutes <= maxMinutes) return minutes;
  throw new ReadonceError(
    'invalid_argument',
    `Expected minutes above 0 and at most ${maxMinutes} for --minutes but got ` +
      `${JSON.stringify(text)}.`,
  );
}

function flagValues(args: readonly string[]) {
  try {
    const text = { type: 'string' } as const;
    const { values } = parseArgs({
      args: [...args],
      options: { model: text, only: text, minutes: text, out: text, quick: { type: 'boolean' } },
    });
    return values;
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    throw new ReadonceError('invalid_argument', `Expected "${usage}": ${reason}`, { cause });
  }
}
