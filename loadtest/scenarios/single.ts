import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import type { Scenario } from '../scenario.ts';
import { longJobs, shortJobs, usualSubjects } from '../subjects.ts';
import { createTally, type PhaseFigures } from '../tally.ts';
import { judgeAllAnswered } from '../targets.ts';
import type { Job } from '../asks.ts';

/** One client that asks one question after another: what the other scenarios are compared with. */
export const single: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  return stage.withServer({ label: 'single' }, async (server) => {
    const subjects = await usualSubjects(server, setup);
    const measure = async (
      length: 'short' | 'long',
      jobs: readonly Job[],
    ): Promise<PhaseFigures> => {
      const name = `single, ${length}`;
      progress(`  ${name}`);
      const tally = createTally();
      const bounds = { ms: sizes.phaseMs, requests: sizes.phaseRequests };
      await fire({ url: server.url, clients: 1, jobs, bounds, tally });
      await untilIdle(server.url);
      return tally.figures({ name, clients: 1, length });
    };
    const phases = [
      await measure('short', await shortJobs(server, subjects)),
      await measure('long', await longJobs(server, subjects)),
    ];
    return {
      explanation:
        'One client, one question after another, with the contexts loaded. Short: answers as ' +
        'the questions have them. Long: 64 tokens an answer.',
      phases,
      tables: [],
      musts: judgeAllAnswered('single', phases),
      targets: [],
    };
  });
};
