import { spread } from '../../eval/joined-document.ts';
import { assert } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type { Job } from '../asks.ts';
import { fire } from '../cannon.ts';
import { chatAsk, requireChat, type ChatQuestion } from '../chat.ts';
import { earlierPhase } from '../earlier.ts';
import { untilIdle } from '../idle.ts';
import type { Scenario, ScenarioSetup } from '../scenario.ts';
import { shortTokens } from '../sizes.ts';
import { countStream, streamOnce } from '../streams.ts';
import { documentNumbers } from '../subjects.ts';
import { createTally, type PhaseFigures } from '../tally.ts';
import { judge, judgeAllAnswered, loadTargets } from '../targets.ts';

type Question = Omit<ChatQuestion, 'streamed'>;

/** Without it, all but the first few of several clients would wait too long and be refused. */
const maxQueryWaitMs = 3_600_000;

/** The same questions with the document sent along and read anew each time. */
export const baseline: Scenario = (setup) => {
  const { stage, sizes, progress } = setup;
  const { baselineClients: clients } = sizes;
  const environment = { READONCE_MAX_QUERY_WAIT_MS: String(maxQueryWaitMs) };
  // On the shared store the documents would be found, and not be read again.
  return stage.withServer({ label: 'baseline', environment, store: 'empty' }, async (server) => {
    await requireChat(server.url);
    const questions = baselineQuestions(await servedModel(server.url), setup);
    progress(`  one client, ${questions.length} requests`);
    const { alone, jobs } = await askAlone(server.url, questions);
    progress(`  ${clients} clients`);
    const tally = createTally();
    const bounds = { ms: sizes.baselineMs, requests: sizes.phaseRequests };
    await fire({ url: server.url, clients, jobs, bounds, tally });
    await untilIdle(server.url);
    const phases = [alone, tally.figures({ name: 'baseline, many', clients, length: 'short' })];
    const best = Math.max(...phases.map((phase) => phase.requestsPerSecond || 0));
    const reuse = earlierPhase(setup, 'reuse', 'reuse, short');
    return {
      explanation:
        'The documents of *single* are sent with each question to `POST /v1/chat/completions`, ' +
        'nothing is stored, and so each is read anew every time (`cached_tokens` must be 0). The ' +
        'cache is not compressed, so answers may differ from those of the other scenarios; right ' +
        'is what one client was told. Compared is the better of both rows.',
      phases,
      tables: [],
      musts: judgeAllAnswered('baseline', phases),
      targets: [judge(loadTargets.reuseBaseline, reuse.requestsPerSecond / best)],
    };
  });
};

function baselineQuestions(model: string, { stage, sizes }: ScenarioSetup): readonly Question[] {
  const { documents, documentTokens, baselineRequests } = sizes;
  return Array.from({ length: baselineRequests }, (_, i) => {
    const number = documentNumbers.usual + (i % documents);
    const { document, questions } = stage.texts.document({ number, tokens: documentTokens });
    const query = spread(questions, baselineRequests)[Math.floor(i / documents)]?.question ?? '';
    return { model, document, query, maxTokens: shortTokens };
  });
}

/** Asks one question after another, as streams; what is answered is what is right. */
async function askAlone(
  url: string,
  questions: readonly Question[],
): Promise<{ readonly alone: PhaseFigures; readonly jobs: readonly Job[] }> {
  const tally = createTally();
  const jobs: Job[] = [];
  for (const question of questions) {
    const ask = chatAsk({ ...question, streamed: true });
    const result = await streamOnce(url, ask);
    if (result.kind !== 'answer') {
      const reason = result.kind === 'problem' ? result.code : 'a broken stream';
      const message = `Expected an answer to the baseline's question but got ${reason}.`;
      throw new ReadonceError('unsupported', message);
    }
    countStream(tally, { ...ask, expected: result.reply }, result);
    jobs.push({ ...chatAsk({ ...question, streamed: false }), expected: result.reply });
  }
  return { alone: tally.figures({ name: 'baseline, one', clients: 1, length: 'short' }), jobs };
}

async function servedModel(url: string): Promise<string> {
  const response = await fetch(new URL('/models', url));
  const models = (await response.json()) as { readonly data: readonly { readonly id: string }[] };
  const [model] = models.data;
  assert(model !== undefined, 'expected the server to list its model');
  return model.id;
}
