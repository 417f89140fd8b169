import { assert } from '../src/core/assert.ts';
import type { ScenarioName } from './options.ts';
import type { ScenarioSetup } from './scenario.ts';
import type { PhaseFigures } from './tally.ts';

/** A phase of a scenario that this one needs (`scenarioNeeds`). */
export function earlierPhase(
  { earlier }: Pick<ScenarioSetup, 'earlier'>,
  scenario: ScenarioName,
  name: string,
): PhaseFigures {
  const phase = earlier.get(scenario)?.phases.find((one) => one.name === name);
  assert(phase !== undefined, `expected the figures of "${name}"`);
  return phase;
}
