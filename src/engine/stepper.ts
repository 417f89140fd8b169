import type { RaggedSlot, Runtime } from '../runtime/runtime.ts';
import type { DeviceTurns } from './device-turns.ts';

interface Waiting {
  readonly slot: RaggedSlot;
  readonly resolve: (logits: Float32Array) => void;
  readonly reject: (error: unknown) => void;
}

/**
 * Continuous batching: every answer asks for one step at a time, and whatever asks while the device
 * is busy is computed together at the next turn. Answers join and leave at any step.
 */
export class Stepper {
  readonly #runtime: Pick<Runtime, 'forward'>;
  readonly #turns: DeviceTurns;
  #waiting: Waiting[] = [];

  constructor(runtime: Pick<Runtime, 'forward'>, turns: DeviceTurns) {
    this.#runtime = runtime;
    this.#turns = turns;
  }

  /** Appends one token to a cache and returns the logits after it. */
  step(slot: RaggedSlot): Promise<Float32Array> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ slot, resolve, reject });
      if (this.#waiting.length > 1) return;
      this.#turns.run('step', () => this.#stepAll()).catch((error: unknown) => this.#fail(error));
    });
  }

  #stepAll(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    let start = 0;
    for (const size of batchSizes(waiting.length)) {
      this.#stepTogether(waiting.slice(start, start + size));
      start += size;
    }
  }

  #stepTogether(batch: readonly Waiting[]): void {
    try {
      const logits = this.#runtime.forward(batch.map(({ slot }) => slot));
      for (const [i, { resolve }] of batch.entries()) resolve(logits[i] as Float32Array);
    } catch (error) {
      for (const { reject } of batch) reject(error);
    }
  }

  #fail(error: unknown): void {
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

/**
 * Cuts a batch into sizes of a ladder, largest first: each size needs a graph of its own, so few
 * sizes keep start-up and memory small.
 */
export function batchSizes(count: number): readonly number[] {
  const sizes: number[] = [];
  for (let rest = count; rest > 0; rest -= sizes.at(-1) as number) {
    sizes.push(ladder.find((size) => size <= rest) ?? 1);
  }
  return sizes;
}

/** Past eight, the CPU gains little from wider steps. */
const ladder: readonly number[] = [8, 4, 2, 1];
