import { randomUUID } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { z } from 'zod';
import { ReadonceError } from '../src/core/errors.ts';
import { decodeRecord, encodeRecord } from './catalogue.ts';
import type { Environment } from './environment.ts';
import { idBytes } from './keys.ts';

/**
 * A mark in the table `unfinished`: pieces of this context are there, or may be, that no catalogue
 * record speaks for, because one process is writing or removing them.
 */
export interface UnfinishedMark {
  /** Names one write or removal. Whoever replaced it owns the pieces. */
  readonly token: string;
  /** The boot and process namespace in which `pid` means something. */
  readonly machine: string;
  readonly pid: number;
  /** When the process started, in the kernel's words: a pid may be used again. */
  readonly processStart: string;
  readonly markedAtMs: number;
}

const markSchema: z.ZodType<UnfinishedMark> = z.strictObject({
  token: z.string(),
  machine: z.string(),
  pid: z.int().positive(),
  processStart: z.string(),
  markedAtMs: z.int().nonnegative(),
});

/** A writer in another process namespace of this boot cannot be looked up; it gets this long. */
const unknownWriterMs = 60 * 60 * 1000;

/** Tokens of the work that goes on in this process. */
const ownTokens = new Set<string>();

/** Marks `id` as this process's work. Call in a write transaction. Ends with `releaseToken`. */
export function putMark(env: Environment, id: string, nowMs: number): string {
  const token = randomUUID();
  const mark: UnfinishedMark = {
    token,
    machine: thisMachine(),
    pid: process.pid,
    processStart: processStart(process.pid),
    markedAtMs: nowMs,
  };
  env.tables.unfinished.putSync(idBytes(id), encodeRecord('unfinished', id, mark));
  ownTokens.add(token);
  return token;
}

/** The work that `token` names ended, well or not. */
export function releaseToken(token: string): void {
  ownTokens.delete(token);
}

/**
 * Whether someone is still at work on `id`. An unreadable mark counts as dead: should its writer
 * live, it finds its token gone and stops.
 */
export function isBeingWorkedOn(env: Environment, id: string, nowMs: number): boolean {
  const mark = readMark(env, id);
  return mark !== undefined && isAlive(mark, nowMs);
}

/**
 * Fails unless the mark is still the one that `token` names. Every transaction of a write or a
 * removal begins with it, so a process that was taken for dead cannot go on by mistake.
 * @throws ReadonceError `conflict`
 */
export function requireMark(env: Environment, id: string, token: string): void {
  if (readMark(env, id)?.token === token) return;
  throw new ReadonceError(
    'conflict',
    `Expected to go on writing ${id} but another process took it over; try again`,
    { details: { id } },
  );
}

function readMark({ tables }: Environment, id: string): UnfinishedMark | undefined {
  const value = tables.unfinished.get(idBytes(id));
  if (value === undefined) return undefined;
  try {
    return decodeRecord('unfinished', id, value, markSchema);
  } catch {
    return undefined;
  }
}

function isAlive(mark: UnfinishedMark, nowMs: number): boolean {
  if (mark.machine !== thisMachine()) {
    const sameBoot = bootOf(mark.machine) === bootOf(thisMachine());
    return sameBoot && nowMs - mark.markedAtMs < unknownWriterMs;
  }
  if (mark.pid === process.pid) return ownTokens.has(mark.token);
  return processExists(mark.pid) && processStart(mark.pid) === mark.processStart;
}

function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

/** `boot/namespace` on Linux; elsewhere the host's name, which says it a little less surely. */
function thisMachine(): string {
  const boot = readText('/proc/sys/kernel/random/boot_id') ?? hostname();
  return `${boot}/${readLink('/proc/self/ns/pid') ?? ''}`;
}

function bootOf(machine: string): string {
  return machine.slice(0, machine.indexOf('/'));
}

/** Field 22 of /proc/PID/stat, counted from behind the name, which may hold spaces; else ''. */
function processStart(pid: number): string {
  const stat = readText(`/proc/${pid}/stat`) ?? '';
  return (
    stat
      .slice(stat.lastIndexOf(')') + 1)
      .trim()
      .split(' ')[19] ?? ''
  );
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8').trim();
  } catch {
    return undefined;
  }
}

function readLink(path: string): string | undefined {
  try {
    return readlinkSync(path);
  } catch {
    return undefined;
  }
}
