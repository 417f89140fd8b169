import { atMost, type Check } from '../eval/check.ts';
import { formatCount } from '../src/cli/format.ts';
import type { ScenarioName } from './options.ts';
import type { ScenarioReport } from './scenario.ts';
import type { Served } from './stage.ts';

/** What became of a scenario. */
export interface Outcome {
  readonly name: ScenarioName;
  /** Undefined if it could not be run to its end. */
  readonly report: ScenarioReport | undefined;
  /** Why not. */
  readonly error: string | undefined;
  /** The servers it used, in order. */
  readonly served: readonly Served[];
}

/** What is judged in every run: right answers, and servers that lived and ended as they should. */
export function mustsOf({ name, report, served }: Outcome): readonly Check[] {
  const format = formatCount;
  const restarts = served.reduce((sum, { memory }) => sum + memory.restarts, 0);
  const badEnds = served.filter(({ exitStatus }) => exitStatus !== 0).length;
  const errorLines = served.reduce((sum, one) => sum + one.errorLines.length, 0);
  return [
    ...(report?.musts ?? []),
    atMost(0, { what: `${name}: engines that ended`, value: restarts, format }),
    atMost(0, { what: `${name}: servers that ended badly`, value: badEnds, format }),
    atMost(0, { what: `${name}: errors in the server's log`, value: errorLines, format }),
  ];
}

/** Whether a run passes: every scenario ran, nothing was wrong and, if judged, no target missed. */
export function passes(outcomes: readonly Outcome[], judged: { readonly targets: boolean }) {
  return outcomes.every((outcome) => {
    const targets = judged.targets ? (outcome.report?.targets ?? []) : [];
    const checks = [...mustsOf(outcome), ...targets];
    return outcome.error === undefined && checks.every(({ passed }) => passed);
  });
}
