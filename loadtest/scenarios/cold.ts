import { formatBytes, formatCount, formatShare } from '../../src/cli/format.ts';
import { fire } from '../cannon.ts';
import { untilIdle } from '../idle.ts';
import type { Scenario } from '../scenario.ts';
import { askAgain, documentNumbers, putSubjects, shortJobs, type Subject } from '../subjects.ts';
import { createTally } from '../tally.ts';
import { judge, judgeAllAnswered, loadTargets } from '../targets.ts';

/** Room for those in use and half as many that are not. */
const poolFactor = 1.5;
/** Rows behind a context in memory, for a question and its answer. */
const tailTokens = 192;
/** Stored as f16, loaded as f32. */
const loadedFactor = 2;

/** Contexts spread over more than the pool holds: they are read from disk again and again. */
export const cold: Scenario = async (setup) => {
  const { stage, sizes, progress } = setup;
  const { coldClients: clients } = sizes;
  // A server with room for everything says what is right, so the tier is tested too.
  const { jobs, subjects } = await stage.withServer({ label: 'cold, prepared' }, async (server) => {
    const put = await putSubjects(server, setup, {
      firstNumber: documentNumbers.cold,
      count: sizes.coldDocuments,
      tokens: sizes.coldTokens,
      questions: sizes.questions,
    });
    return { jobs: await shortJobs(server, put), subjects: put };
  });
  const sizesBytes = subjects.map(loadedBytes);
  const allBytes = sizesBytes.reduce((sum, bytes) => sum + bytes, 0);
  const poolBytes = Math.round(poolFactor * clients * Math.max(...sizesBytes));
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
          headers: [
            'contexts',
            'loaded, all',
            'pool',
            'from disk',
            'from memory',
            'share from disk',
          ],
          rows: [
            [
              formatCount(subjects.length),
              formatBytes(allBytes),
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

function loadedBytes({ context: { document, size } }: Subject): number {
  const tailBytes = (size.fullBytes / document.tokens) * tailTokens;
  return (size.storedBytes + tailBytes) * loadedFactor;
}
