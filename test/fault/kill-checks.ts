import { basename } from 'node:path';
import { ReadonceError } from '../../src/core/errors.ts';
import type { ReadonceClient } from '../../src/client/client.ts';
import type { Context, QueryRequest } from '../../src/client/types.ts';
import type { FaultWorkspace } from './fault-server.ts';
import {
  listAll,
  mayHave,
  usageOf,
  type Expected,
  type Promised,
  type Violation,
} from './ledger.ts';
import { filesBelow, scanStore, type StoreScan } from './store-scan.ts';

/** What is checked when the processes run again and nobody else asks them for anything. */
export interface Check {
  readonly client: ReadonceClient;
  readonly workspace: FaultWorkspace;
  readonly promises: readonly Promised[];
  readonly report: (kind: Violation['kind'], detail: string) => void;
  /** An answer was compared. */
  readonly onAnswer: () => void;
}

/** Questions asked at once: enough that answers share steps of the model. */
const askersAtOnce = 4;

/** What a context that is not there answers: `conflict` where an ingestion failed. */
const refusals = new Set(['not_found', 'conflict']);

/** The files of a store. */
const storeFiles = new Set(['data.mdb', 'lock.mdb']);

/**
 * Compares what a server shows and what is on disk with what was promised. What was unknown is
 * settled by what is seen.
 * @returns how many contexts are there, and what the scan of the store found
 */
export async function checkEverything(
  check: Check,
): Promise<{ readonly contexts: number; readonly scan: StoreScan }> {
  const contexts = await listAll(check.client);
  const listed = new Map(contexts.map((context) => [context.id, context]));
  const known = new Set(check.promises.map(({ id }) => id));
  for (const id of listed.keys()) if (!known.has(id)) check.report('stranger', id);
  if (listed.size !== contexts.length) check.report('error', 'a context is listed twice');
  for (const promised of check.promises) settle(check, promised, listed.get(promised.id));
  await checkAnswers(check);
  const scan = await scanStore(check.workspace.data);
  checkDisk(check, listed, scan);
  return { contexts: contexts.length, scan };
}

function settle(check: Check, promised: Promised, context: Context | undefined): void {
  const { name } = promised.recipe;
  if (context === undefined) {
    if (promised.presence === 'present') check.report('lost', `${name} is not listed`);
    promised.presence = 'absent';
    promised.usages = [];
    return;
  }
  if (promised.presence === 'absent') check.report('came back', `${name} is listed`);
  const usage = usageOf(context);
  if (!mayHave(promised, usage)) {
    const [seen, allowed] = [usage, promised.usages].map((value) => JSON.stringify(value));
    check.report('usage', `${name} has ${seen}, expected one of ${allowed}`);
  }
  const { pairsTotal, pairsKept, storedBytes } = promised.size;
  const complete = { status: 'ready', pairsTotal, pairsKept, storedBytes };
  for (const [field, value] of Object.entries(complete)) {
    const got = { ...context.size, status: context.status }[field as keyof typeof complete];
    if (got !== value) check.report('half-written', `${name}: ${field} is ${got}, not ${value}`);
  }
  promised.presence = 'present';
  promised.usages = [usage];
}

/** Every context that is there answers as it should; no other one answers. */
async function checkAnswers(check: Check): Promise<void> {
  const questions = check.promises.flatMap((promised) =>
    promised.expected.map((expected) => ({ promised, expected })),
  );
  const ask = async (): Promise<void> => {
    for (let next = questions.pop(); next !== undefined; next = questions.pop()) {
      const { promised, expected } = next;
      const got = await answerOf(check.client, promised.id, expected.request);
      check.onAnswer();
      compare(check, promised, expected, got);
    }
  };
  await Promise.all(Array.from({ length: askersAtOnce }, ask));
}

interface Got {
  /** Undefined if there was none. */
  readonly answer: string | undefined;
  /** Of the error, or empty. */
  readonly code: string;
}

async function answerOf(client: ReadonceClient, id: string, request: QueryRequest): Promise<Got> {
  try {
    const { answer, usage } = await client.query(id, request);
    const recomputed = usage.prefilledTokens !== usage.queryTokens;
    const note = recomputed ? ` (prefilled ${usage.prefilledTokens} tokens)` : '';
    return { answer: answer + note, code: '' };
  } catch (error) {
    if (error instanceof ReadonceError) return { answer: undefined, code: error.code };
    throw error;
  }
}

function compare(
  { report }: Check,
  { recipe: { name }, presence }: Promised,
  expected: Expected,
  { answer, code }: Got,
): void {
  if (presence === 'absent') {
    if (answer !== undefined) report('came back', `${name} answers: ${answer}`);
    else if (!refusals.has(code)) report('error', `${name}, which is not there: ${code}`);
  } else if (answer === undefined) {
    report('lost', `${name} gives ${code}`);
  } else if (answer !== expected.answer) {
    report('wrong answer', `${name}: ${answer}, not ${expected.answer}`);
  }
}

function checkDisk(
  { report, workspace }: Check,
  listed: ReadonlyMap<string, Context>,
  { contextBytes, orphans, unfinished, stats }: StoreScan,
): void {
  for (const orphan of orphans) report('leak', `${orphan} has no catalogue record`);
  for (const id of unfinished) report('leak', `${id} is still marked as unfinished`);
  for (const [id, bytes] of contextBytes) {
    const reported = listed.get(id)?.size.diskBytes;
    if (reported !== bytes) report('usage', `${id}: ${bytes} bytes, reported as ${reported}`);
  }
  if (contextBytes.size !== listed.size) {
    report('half-written', `${listed.size} contexts listed, ${contextBytes.size} stored`);
  }
  const told = {
    contexts: listed.size,
    contextBytes: [...contextBytes.values()].reduce((sum, bytes) => sum + bytes, 0),
    damaged: 0,
    unfinished: 0,
  };
  for (const [field, found] of Object.entries(told)) {
    const reported = stats[field as keyof typeof told];
    if (reported !== found) report('usage', `${field} is reported as ${reported}, not ${found}`);
  }
  const aside = stats.quarantined.contexts;
  if (aside !== 0) report('half-written', `${aside} contexts failed a check: quarantined`);
  for (const file of filesBelow(workspace.data)) {
    if (!storeFiles.has(basename(file))) report('leak', `a file ${file} in the store`);
  }
  for (const file of filesBelow(workspace.temporary)) report('leak', `a temporary file ${file}`);
}
