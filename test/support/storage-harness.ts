import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { onTestFinished } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import type { Clock } from '../../src/core/clock.ts';
import type { ContextStore } from '../../storage/context-store.ts';
import { openEnvironment, type Environment, type TableName } from '../../storage/environment.ts';
import { openContextStore, type StoreOptions } from '../../storage/open-store.ts';

/** A folder that goes when the test ends. */
export function storeFolder(): string {
  const folder = mkdtempSync(join(tmpdir(), 'readonce-store-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/** A store that closes when the test ends; by default in a folder of its own. */
export async function openStore(options: Partial<StoreOptions> = {}): Promise<ContextStore> {
  const store = await openContextStore({ ...options, folder: options.folder ?? storeFolder() });
  onTestFinished(() => store.close());
  return store;
}

/** The tables below a store, to look at and to damage; closes when the test ends. */
export function openTables(folder: string): Environment {
  const env = openEnvironment(folder);
  onTestFinished(() => env.close());
  return env;
}

/** A key and its value. */
export interface Entry {
  readonly table: TableName;
  readonly key: Buffer;
  readonly value: Buffer;
}

/** What some tables hold, in order. */
export function entries(env: Environment, tables: readonly TableName[]): Entry[] {
  return env.read((transaction) =>
    tables.flatMap((table) =>
      Array.from(
        env.tables[table].getRange({ start: Buffer.from([0]), transaction }),
        ({ key, value }) => ({ table, key: Buffer.from(key), value: Buffer.from(value) }),
      ),
    ),
  );
}

/** Entries of each table that holds something of contexts. */
export function entryCounts(env: Environment): Readonly<Record<string, number>> {
  const names = Object.keys(env.tables).filter((name) => name !== 'store');
  return env.read((transaction) =>
    Object.fromEntries(
      names.map((name) => {
        const table = env.tables[name as keyof typeof env.tables];
        return [name, table.getKeysCount({ start: Buffer.from([0]), transaction })];
      }),
    ),
  );
}

export const noEntries = {
  segments: 0,
  rankings: 0,
  tokens: 0,
  catalogue: 0,
  usage: 0,
  created: 0,
  expires: 0,
  families: 0,
  unfinished: 0,
  quarantine: 0,
};

/** A clock that stands where it is put. */
export function fixedClock(nowMs: number): Clock & { set(nowMs: number): void } {
  let now = nowMs;
  return {
    nowMs: () => now,
    monotonicMs: () => now,
    set: (next) => {
      now = next;
    },
  };
}

/**
 * Where another process stops: never, with some segments stored, with all of them stored, or, to
 * exit by itself, with most of them stored.
 */
export type StallStage = 'none' | 'segments' | 'rankings' | 'exit';

/** Which thread of another process stores: the one that writes, or the store's own. */
export type StoringThread = 'caller' | 'writer';

/** Starts a process that writes a context, and waits until it stalls or is done. */
export async function writeInChild(
  folder: string,
  seed: number,
  stage: StallStage,
  thread: StoringThread = 'caller',
): Promise<ChildProcess> {
  const { child, said } = startWriter(folder, seed, { stage, thread });
  await said;
  return child;
}

/** As `writeInChild`, until it is done: how many heads the child was asked for. */
export async function countHeadsInChild(folder: string, seed: number): Promise<number> {
  const { child, said } = startWriter(folder, seed, { stage: 'none', thread: 'caller' });
  const [, heads] = (await said).split(' ');
  defined(child.stdin, 'the input of the child').end();
  return Number(heads);
}

/** A flag of Node.js: that program stores all by the writing thread, which this module starts. */
export function forceWriterThread(batchWriterModule: URL, log?: string): string {
  const preloaded = new URL('force-writer-thread.mjs', import.meta.url);
  preloaded.searchParams.set('module', batchWriterModule.href);
  if (log !== undefined) preloaded.searchParams.set('log', log);
  return `--import=${preloaded.href}`;
}

function startWriter(
  folder: string,
  seed: number,
  { stage, thread }: { readonly stage: StallStage; readonly thread: StoringThread },
) {
  const script = fileURLToPath(new URL('storage-writer.ts', import.meta.url));
  const batchWriter = new URL('../../storage/threads/batch-writer.ts', import.meta.url);
  const flags = thread === 'writer' ? [forceWriterThread(batchWriter)] : [];
  const args = ['--import', 'tsx', ...flags, script, folder, String(seed), stage];
  const child = spawn(process.execPath, args, { stdio: ['pipe', 'pipe', 'inherit'] });
  onTestFinished(() => void child.kill('SIGKILL'));
  const said = once(defined(child.stdout, 'the output of the child'), 'data');
  return { child, said: said.then(([text]) => String(text)) };
}

/** Ends a process by SIGKILL and waits until it is gone. */
export async function killHard(child: ChildProcess): Promise<void> {
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}
