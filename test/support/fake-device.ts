import { Scheduler } from '../../src/engine/scheduler.ts';
import { floatLogits } from '../../src/runtime/float-logits.ts';
import type { ForwardSlot, Logits, Tail } from '../../src/runtime/runtime.ts';

/** A tail that counts its rows. */
export class CountingTail implements Tail {
  length = 0;
  readonly sizeBytes = 0;
  truncate(length: number): void {
    this.length = length;
  }
  park(): void {}
  close(): void {}
}

/**
 * A device on which a call takes `callMs` of a clock that stands still else, and what it has done:
 * for each call the slots' numbers of tokens, and `piece` for pieces.
 */
export class FakeDevice {
  readonly done: (readonly number[] | 'piece')[] = [];
  callMs = 10;
  error: Error | undefined;
  /** Tokens that cannot be computed, and fail the call that they are in. */
  readonly bad = new Set<number>();
  /** Slots of a failing call whose tails get their rows nevertheless. */
  appendedByFailing = 0;
  #nowMs = 0;

  readonly clock = { nowMs: () => this.#nowMs, monotonicMs: () => this.#nowMs };
  readonly runtime = {
    forward: (slots: readonly ForwardSlot[]): readonly Logits[] => {
      if (this.error !== undefined) throw this.error;
      this.done.push(slots.map(({ ids }) => ids.length));
      this.#nowMs += this.callMs;
      if (slots.some(({ ids }) => this.bad.has(ids[0] ?? NaN))) {
        for (const { tail, ids } of slots.slice(0, this.appendedByFailing)) {
          if (tail instanceof CountingTail) tail.length += ids.length;
        }
        throw new Error('a bad token');
      }
      return slots.map(({ tail, ids }) => {
        if (tail instanceof CountingTail) tail.length += ids.length;
        return floatLogits(Float32Array.of(ids[0] ?? NaN));
      });
    },
  };

  /** A piece of work that takes `durationMs`. */
  piece(durationMs: number): () => void {
    return () => {
      this.done.push('piece');
      this.#nowMs += durationMs;
    };
  }
}

/** As of a scheduler; default 4 running, a minute of patience. */
export interface Limits {
  readonly maxRunning?: number;
  readonly maxWaitMs?: number;
}

/** A scheduler on a fake device. */
export function openScheduler({ maxRunning = 4, maxWaitMs = 60_000 }: Limits = {}) {
  const device = new FakeDevice();
  const { runtime, clock } = device;
  return { device, scheduler: new Scheduler({ runtime, clock, maxRunning, maxWaitMs }) };
}

/** Lets everything that can go on now go on. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
}
