import { existsSync, mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { defined } from '../../src/core/assert.ts';
import type { ServerProcess } from '../../src/cli/server-process.ts';
import { childrenOf, createWorkspace, startServer, type Workspace } from '../e2e/support.ts';
import { forceWriterThread } from '../support/storage-harness.ts';

/** Which processes a fault hits. */
export const faultTargets = ['server', 'engine', 'both'] as const;

/** A word of `faultTargets`. */
export type FaultTarget = (typeof faultTargets)[number];

/** A workspace whose temporary files can be seen. */
export interface FaultWorkspace extends Workspace {
  /** Where its processes put temporary files. */
  readonly temporary: string;
}

/** A server whose processes may be killed at any moment. */
export interface Victim {
  readonly server: ServerProcess;
  /** Of the engine that ran when this was looked up. */
  readonly enginePid: number;
}

const pollMs = 10;

/** A temporary workspace; `TMPDIR` of its processes is inside it. */
export function createFaultWorkspace(): FaultWorkspace {
  const workspace = createWorkspace();
  const temporary = join(workspace.folder, 'tmp');
  mkdirSync(temporary);
  return { ...workspace, temporary, env: { ...workspace.env, TMPDIR: temporary } };
}

/** Starts a server and waits until its engine is ready. */
export async function startVictim(workspace: Workspace): Promise<Victim> {
  return victimOf(await startServer(workspace));
}

/** A workspace whose processes store everything by the writing thread, however small it is. */
export function withWriterThread<T extends Workspace>(workspace: T): T {
  const module = new URL('../../dist/storage/threads/batch-writer.js', import.meta.url);
  const flag = forceWriterThread(module, threadLog(workspace));
  return { ...workspace, env: { ...workspace.env, NODE_OPTIONS: flag } };
}

/** How many batches writing threads were given in a workspace, see `withWriterThread`. */
export function countThreadBatches(workspace: Workspace): number {
  return statSync(threadLog(workspace), { throwIfNoEntry: false })?.size ?? 0;
}

function threadLog({ folder }: Workspace): string {
  return join(folder, 'writing-thread');
}

/** A server that is ready, with its present engine. */
export async function victimOf(server: ServerProcess): Promise<Victim> {
  const [enginePid] = await childrenOf(server.pid);
  return { server, enginePid: defined(enginePid, 'the engine of a server that is ready') };
}

/** SIGKILL, at once; the target may still be dying when this returns. */
export function killNow({ server, enginePid }: Victim, target: FaultTarget): void {
  if (target !== 'engine') process.kill(server.pid, 'SIGKILL');
  if (target !== 'server') process.kill(enginePid, 'SIGKILL');
}

/** Waits until a server that was killed and its engine are gone. */
export async function untilGone({ server, enginePid }: Victim): Promise<void> {
  await server.stop('SIGKILL');
  while (existsSync(`/proc/${enginePid}`)) await delay(pollMs);
}
