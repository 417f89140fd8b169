import type { ScenarioName } from './options.ts';
import type { Scenario } from './scenario.ts';
import { baseline } from './scenarios/baseline.ts';
import { burst } from './scenarios/burst.ts';
import { clients } from './scenarios/clients.ts';
import { cold } from './scenarios/cold.ts';
import { mixed } from './scenarios/mixed.ts';
import { reuse } from './scenarios/reuse.ts';
import { single } from './scenarios/single.ts';
import { soak } from './scenarios/soak.ts';
import { stream } from './scenarios/stream.ts';

/** Every scenario by its name. */
export const scenarios: Readonly<Record<ScenarioName, Scenario>> = {
  single,
  reuse,
  baseline,
  stream,
  mixed,
  cold,
  burst,
  clients,
  soak,
};
