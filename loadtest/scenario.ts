import type { Check } from '../eval/check.ts';
import type { Table } from '../eval/markdown.ts';
import type { ScenarioName } from './options.ts';
import type { MemorySample } from './processes.ts';
import type { Sizes } from './sizes.ts';
import type { Stage } from './stage.ts';
import type { PhaseFigures } from './tally.ts';

/** What every scenario gets. */
export interface ScenarioSetup {
  readonly stage: Stage;
  readonly sizes: Sizes;
  /** How long *soak* goes on. */
  readonly soakMs: number;
  /** Figures of scenarios that ran before, in this run. */
  readonly earlier: ReadonlyMap<ScenarioName, ScenarioReport>;
  /** Says how far it is. */
  readonly progress: (text: string) => void;
}

/** What a scenario found out. */
export interface ScenarioReport {
  /** What was done and what the figures mean, one sentence or more. */
  readonly explanation: string;
  readonly phases: readonly PhaseFigures[];
  /** What is this scenario's alone. */
  readonly tables: readonly Table[];
  /** Whether answers and refusals were right: judged in every run. */
  readonly musts: readonly Check[];
  /** Figures of speed and memory: judged unless the run is a quick one. */
  readonly targets: readonly Check[];
  /** Memory over time, for a chart. */
  readonly memory?: readonly MemorySample[];
}

export type Scenario = (setup: ScenarioSetup) => Promise<ScenarioReport>;
