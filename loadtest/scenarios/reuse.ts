import type { Job } from '../asks.ts';
import { fire } from '../cannon.ts';
import { earlierPhase } from '../earlier.ts';
import { untilIdle } from '../idle.ts';
import type { Scenario } from '../scenario.ts';
import { askAgain, longJobs, shortJobs, usualSubjects } from '../subjects.ts';
import { createTally, type PhaseFigures } from '../tally.ts';
import { judge, judgeAllAnswered, loadTargets } from '../targets.ts';

/** Many clients with many questions about few contexts. */
export const reuse: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  const { clients } = sizes;
  return stage.withServer({ label: 'reuse' }, async (server) => {
    const subjects = await usualSubjects(server, setup);
    const measure = async (
      length: 'short' | 'long',
      jobs: readonly Job[],
    ): Promise<PhaseFigures> => {
      const name = `reuse, ${length}`;
      progress(`  ${name}`);
      const tally = createTally();
      const bounds = { ms: sizes.phaseMs, requests: sizes.phaseRequests };
      await fire({ url: server.url, clients, jobs, bounds, tally });
      await untilIdle(server.url);
      return tally.figures({ name, clients, length });
    };
    const questions = await shortJobs(server, subjects);
    const repetitions = await longJobs(server, subjects);
    const short = await measure('short', questions);
    const long = await measure('long', repetitions);
    const phases = [
      short,
      long,
      await askAgain(server, [...questions, ...repetitions], 'reuse, asked again in quiet'),
    ];
    const singleShort = earlierPhase(setup, 'single', 'single, short');
    const singleLong = earlierPhase(setup, 'single', 'single, long');
    return {
      explanation:
        `${clients} clients ask about ${subjects.length} contexts, each again as soon as it is ` +
        'answered. Short and long as in *single*.',
      phases,
      tables: [],
      musts: judgeAllAnswered('reuse', phases),
      targets: [
        judge(loadTargets.reuseThroughput, short.requestsPerSecond / singleShort.requestsPerSecond),
        judge(loadTargets.reuseDecoding, long.tokensPerSecond / singleLong.tokensPerSecond),
      ],
    };
  });
};
