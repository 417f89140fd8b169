import { formatCount, formatBytes, formatMs } from '../../src/cli/format.ts';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import { withServer } from '../bench-server.ts';
import { atLeast, atMost, type Check } from '../check.ts';
import { loadProse } from '../datasets.ts';
import { joinDocuments, spread } from '../joined-document.ts';
import type { Table } from '../markdown.ts';
import { median } from '../median.ts';
import type { PartReport, PartSetup } from '../part.ts';
import { measureRound, peakWhileIngesting, type Round, type Subject } from './speed-round.ts';

/** Documents of about so many tokens; the last is judged. */
const lengths = [1000, 3000, 6000] as const;
const quickLengths = [1000] as const;
const rounds = 3;
/** Questions of a round, asked of the compact and of the full cache in turn. */
const questionCount = 7;

interface SpeedResult {
  readonly tokens: number;
  /** Most memory of an engine that did nothing but start and ingest, bytes. */
  readonly peakBytes: number;
  readonly rounds: readonly Round[];
}

/** Times of a real server, as ratios of times measured in the same run. */
export async function speed(setup: PartSetup): Promise<PartReport> {
  const subjects = await speedSubjects(setup);
  const results = await withServer((server) => measureAll(server, subjects, setup));
  return {
    title: 'Speed',
    explanation:
      'Medians of rounds in which everything is measured in turn. Prefill: the model time of ' +
      'reading the document without compression (`prefillMs` of a PUT with method `none`). Read ' +
      'again: prefill and then the first token of a question on the full cache. Cold: the first ' +
      'token of the first question after the engine was killed and started again, load included; ' +
      'the files may be in the page cache. Warm: the first token with the context loaded. ' +
      'Ingestion: `totalMs` of a PUT with kvzip at keepRatio 0.3. Times compared were measured in ' +
      'one round; a factor is the median over rounds.',
    tables: [ingestionTable(results), firstTokenTable(results), decodeTable(results)],
    checks: setup.quick ? [] : speedChecks(results),
    data: results,
  };
}

async function speedSubjects({ quick, cacheFolder }: PartSetup): Promise<readonly Subject[]> {
  const { tokenizer } = await loadCheckpoint({ model: 'reader', cacheFolder });
  const countTokens = (text: string): number => tokenizer.encode(text).length;
  return (quick ? quickLengths : lengths).map((tokens) => {
    const { document, questions } = joinDocuments(loadProse(), { tokens, countTokens });
    return { document, questions: spread(questions, questionCount).map((one) => one.question) };
  });
}

async function measureAll(
  server: ServerProcess,
  subjects: readonly Subject[],
  { quick, progress }: PartSetup,
): Promise<readonly SpeedResult[]> {
  const results: SpeedResult[] = [];
  for (const [i, subject] of subjects.entries()) {
    progress(`speed: document ${i + 1} of ${subjects.length}, memory while ingesting`);
    const { tokens, peakBytes } = await peakWhileIngesting(server, subject);
    const measured: Round[] = [];
    for (let round = 0; round < (quick ? 1 : rounds); round++) {
      progress(`speed: ${formatCount(tokens)} tokens, round ${round + 1}`);
      measured.push(await measureRound(server, subject, { compactFirst: round % 2 === 0 }));
    }
    results.push({ tokens, peakBytes, rounds: measured });
  }
  return results;
}

type Figure = (round: Round) => number;

function over(result: SpeedResult, figure: Figure): number {
  return median(result.rounds.map(figure));
}

const ingestFactor: Figure = (round) => round.ingestMs / round.prefillMs;
const readAgainMs: Figure = (round) => round.prefillMs + round.fullFirstTokenMs;
const coldFactor: Figure = (round) => readAgainMs(round) / round.coldFirstTokenMs;
const warmFactor: Figure = (round) => readAgainMs(round) / round.warmFirstTokenMs;
const decodeFactor: Figure = (round) => round.compactTokensPerSecond / round.fullTokensPerSecond;

function ingestionTable(results: readonly SpeedResult[]): Table {
  return {
    title: 'Ingestion',
    headers: [
      'tokens',
      'prefill',
      'ingestion',
      'of it prefill',
      'scoring',
      'storing',
      'ingestion / prefill',
      'peak memory of the engine',
    ],
    rows: results.map((result) => [
      formatCount(result.tokens),
      formatMs(over(result, (round) => round.prefillMs)),
      formatMs(over(result, (round) => round.ingestMs)),
      formatMs(over(result, (round) => round.ingestPrefillMs)),
      formatMs(over(result, (round) => round.scoreMs)),
      formatMs(over(result, (round) => round.persistMs)),
      formatFactor(over(result, ingestFactor)),
      formatBytes(result.peakBytes),
    ]),
  };
}

function firstTokenTable(results: readonly SpeedResult[]): Table {
  return {
    title: 'Time to first token',
    headers: ['tokens', 'read again', 'cold', 'warm', 'cold, factor', 'warm, factor'],
    rows: results.map((result) => [
      formatCount(result.tokens),
      formatMs(over(result, readAgainMs)),
      formatMs(over(result, (round) => round.coldFirstTokenMs)),
      formatMs(over(result, (round) => round.warmFirstTokenMs)),
      formatFactor(over(result, coldFactor)),
      formatFactor(over(result, warmFactor)),
    ]),
  };
}

function decodeTable(results: readonly SpeedResult[]): Table {
  return {
    title: 'Decoding, tokens a second',
    headers: ['tokens', 'full cache', 'kvzip 0.3', 'factor'],
    rows: results.map((result) => [
      formatCount(result.tokens),
      over(result, (round) => round.fullTokensPerSecond).toFixed(1),
      over(result, (round) => round.compactTokensPerSecond).toFixed(1),
      formatFactor(over(result, decodeFactor)),
    ]),
  };
}

function speedChecks(results: readonly SpeedResult[]): readonly Check[] {
  const result = results.at(-1);
  if (result === undefined) return [];
  const place = `${formatCount(result.tokens)} tokens`;
  const format = formatFactor;
  return [
    atMost(3.5, {
      what: `${place}: ingestion / prefill`,
      value: over(result, ingestFactor),
      format,
    }),
    atMost(2e9, {
      what: `${place}: peak memory while ingesting`,
      value: result.peakBytes,
      format: formatBytes,
    }),
    atLeast(10, {
      what: `${place}: first token, read again / cold`,
      value: over(result, coldFactor),
      format,
    }),
    atLeast(50, {
      what: `${place}: first token, read again / warm`,
      value: over(result, warmFactor),
      format,
    }),
  ];
}

function formatFactor(factor: number): string {
  return `${factor.toFixed(factor < 10 ? 2 : 1)} ×`;
}
