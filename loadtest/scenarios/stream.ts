import { untilIdle } from '../idle.ts';
import type { Scenario } from '../scenario.ts';
import { stream as streamLoad } from '../streams.ts';
import { longJobs, usualSubjects } from '../subjects.ts';
import { createTally, type PhaseFigures } from '../tally.ts';
import { judgeAllAnswered } from '../targets.ts';

/** Clients that read their answers as server-sent events. */
export const stream: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  return stage.withServer({ label: 'stream' }, async (server) => {
    const jobs = await longJobs(server, await usualSubjects(server, setup));
    const measure = async (name: string, clients: number): Promise<PhaseFigures> => {
      progress(`  ${name}`);
      const tally = createTally();
      const bounds = { ms: sizes.phaseMs, requests: sizes.phaseRequests };
      await streamLoad({ url: server.url, clients, jobs, bounds, tally });
      await untilIdle(server.url);
      return tally.figures({ name, clients, length: 'long' });
    };
    const phases = [await measure('stream, one', 1), await measure('stream, many', sizes.clients)];
    return {
      explanation:
        'Clients read answers of 64 tokens as server-sent events. A gap is the time between two ' +
        '`token` events as the client sees them; the pieces together must be the answer.',
      phases,
      tables: [],
      musts: judgeAllAnswered('stream', phases),
      targets: [],
    };
  });
};
