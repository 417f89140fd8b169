import { formatBytes, formatCount, formatShare } from '../../src/cli/format.ts';
import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import type { Scenario } from '../scenario.ts';
import {
  askAgain,
  documentNumbers,
  putSubjects,
  shortJobs,
  usualSubjects,
  type Subject,
} from '../subjects.ts';
import { createTally } from '../tally.ts';
import { judge, judgeAllAnswered, loadTargets } from '../targets.ts';

/** Of the bytes that all contexts have, what fits into memory at once. */
const poolShare = 0.3;
const leastPoolBytes = 2 ** 20;

/** Contexts spread over more than the pool holds: they are read from disk again and again. */
export const cold: Scenario = async (setup) => {
  const { stage, sizes, progress } = setup;
  const { clients } = sizes;
  // A server with room for everything says what is right, so the tier is tested too.
  const { jobs, subjects } = await stage.withServer({ label: 'cold, prepared' }, async (server) => {
    const usual = await usualSubjects(server, setup);
    const more = await putSubjects(server, setup, {
      firstNumber: documentNumbers.cold,
      count: sizes.coldDocuments,
      tokens: sizes.coldTokens,
      questions: sizes.questions,
    });
    const all = [...usual, ...more];
    return { jobs: await shortJobs(server, all), subjects: all };
  });
  const storedBytes = sizeOf(subjects);
  const poolBytes = Math.max(leastPoolBytes, Math.round(storedBytes * poolShare));
  const environment = { READONCE_POOL_BYTES: String(poolBytes) };
  return stage.withServer({ label: 'cold', environment }, async (server) => {
    progress('  cold');
    const tally = createTally();
    const bounds = { ms: sizes.phaseMs, requests: sizes.phaseRequests };
    await fire({ url: server.url, clients, jobs, bounds, tally });
    await untilIdle(server.url);
    const spread = tally.figures({ name: 'cold', clients, length: 'short' });
    const phases = [spread, await askAgain(server, jobs, 'cold, one client')];
    const fromDisk = (spread.sources['disk'] ?? 0) / spread.answers;
    return {
      explanation:
        `${clients} clients ask about ${subjects.length} contexts in turn, of which the pool ` +
        `(${formatBytes(poolBytes)}) holds some. Right is what a server with room for all said.`,
      phases,
      tables: [
        {
          title: 'Where contexts were found',
          headers: ['contexts', 'stored', 'pool', 'from disk', 'from memory', 'share from disk'],
          rows: [
            [
              formatCount(subjects.length),
              formatBytes(storedBytes),
              formatBytes(poolBytes),
              formatCount(spread.sources['disk'] ?? 0),
              formatCount(spread.answers - (spread.sources['disk'] ?? 0)),
              formatShare(fromDisk),
            ],
          ],
        },
      ],
      musts: judgeAllAnswered('cold', phases),
      targets: [judge(loadTargets.coldFromDisk, fromDisk)],
    };
  });
};

function sizeOf(subjects: readonly Subject[]): number {
  return subjects.reduce((sum, { context }) => sum + context.size.storedBytes, 0);
}
