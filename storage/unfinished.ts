import { randomUUID } from 'node:crypto';
import { readFileSync, readlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { z } from 'zod';
import { decodeRecord, encodeRecord } from './catalogue.ts';
import type { Claim } from './claim.ts';
import type { Environment, Snapshot } from './environment.ts';
import { generationKey, generationOfKey, idBytes, keysBehind, type Generation } from './keys.ts';

/**
 * A mark in the table `unfinished`: pieces of this generation are there, or may be, that no
 * catalogue record speaks for, because one process is writing or removing them.
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

/**
 * Marks a generation as this process's work. Call in a write transaction. Ends with `releaseClaim`.
 */
export function putMark(env: Environment, of: Generation, nowMs: number): Claim {
  const token = randomUUID();
  const mark: UnfinishedMark = {
    token,
    machine: thisMachine(),
    pid: process.pid,
    processStart: processStart(process.pid),
    markedAtMs: nowMs,
  };
  const value = encodeRecord('unfinished', of.id, mark);
  env.tables.unfinished.putSync(generationKey(of), value);
  ownTokens.add(token);
  return { id: of.id, generation: of.generation, token, mark: value };
}

/** The work ended, well or not. */
export function releaseClaim({ token }: Claim): void {
  ownTokens.delete(token);
}

/** Removes the mark. Call in a write transaction. */
export function removeMark({ tables }: Environment, of: Generation): void {
  tables.unfinished.removeSync(generationKey(of));
}

/** All marks (of one context), by the generation they are of. */
export function markedGenerations(
  { tables }: Environment,
  options: { readonly id?: string; readonly snapshot?: Snapshot },
): Generation[] {
  const { id, snapshot } = options;
  const range = id === undefined ? { start: Buffer.from([0]) } : keysBehind(idBytes(id));
  const view = snapshot === undefined ? {} : { transaction: snapshot };
  return Array.from(tables.unfinished.getKeys({ ...range, ...view }), generationOfKey);
}

/**
 * Whether someone is still at work on a generation. An unreadable mark counts as dead: should its
 * writer live, it finds its token gone and stops.
 */
export function isBeingWorkedOn(env: Environment, of: Generation, nowMs: number): boolean {
  const mark = readMark(env, of);
  return mark !== undefined && isAlive(mark, nowMs);
}

function readMark({ tables }: Environment, of: Generation): UnfinishedMark | undefined {
  const value = tables.unfinished.get(generationKey(of));
  if (value === undefined) return undefined;
  try {
    return decodeRecord('unfinished', of.id, value, markSchema);
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

/** A process that has ended but that its parent has not asked about counts as gone. */
function processExists(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !hasEnded(pid);
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

function processStart(pid: number): string {
  return statusField(pid, 22);
}

/** States of /proc/PID/stat in which only the process's entry is left. */
function hasEnded(pid: number): boolean {
  return ['Z', 'X'].includes(statusField(pid, 3));
}

/** A field of /proc/PID/stat from the third on, behind the name, which may hold spaces; else ''. */
function statusField(pid: number, number: number): string {
  const stat = readText(`/proc/${pid}/stat`) ?? '';
  const fields = stat
    .slice(stat.lastIndexOf(')') + 1)
    .trim()
    .split(' ');
  return fields[number - 3] ?? '';
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
