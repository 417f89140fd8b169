import { describe, expect, it } from 'vitest';
import { DeviceTurns } from '../../src/engine/device-turns.ts';
import { batchSizes, Stepper } from '../../src/engine/stepper.ts';
import type { RaggedCache, RaggedSlot } from '../../src/runtime/runtime.ts';

/** A runtime whose logits are the token; it notes the size of each batch. */
class EchoRuntime {
  readonly batches: number[] = [];
  failure: Error | undefined;

  forward(slots: readonly RaggedSlot[]): readonly Float32Array[] {
    this.batches.push(slots.length);
    if (this.failure !== undefined) throw this.failure;
    return slots.map(({ ids }) => Float32Array.from(ids));
  }
}

function slot(token: number): RaggedSlot {
  return { cache: {} as RaggedCache, ids: Int32Array.of(token), startPosition: 0 };
}

function setUp() {
  const runtime = new EchoRuntime();
  const turns = new DeviceTurns();
  return { runtime, turns, stepper: new Stepper(runtime, turns) };
}

const tokens = (count: number): readonly number[] => Array.from({ length: count }, (_, i) => i);

describe('Stepper', () => {
  it('computes together what waits, and gives each its own logits', async () => {
    const { runtime, stepper } = setUp();
    const logits = await Promise.all(tokens(7).map((token) => stepper.step(slot(token))));
    expect(logits.map(([value]) => value)).toEqual(tokens(7));
    expect(runtime.batches).toEqual([4, 2, 1]);
  });

  it('takes what asked while the device was busy at its next turn', async () => {
    const { runtime, turns, stepper } = setUp();
    const joined: Promise<Float32Array>[] = [];
    await turns.run('ingest', () => {
      for (const token of tokens(2)) joined.push(stepper.step(slot(token)));
    });
    await Promise.all(joined);
    await stepper.step(slot(9));
    expect(runtime.batches).toEqual([2, 1]);
  });

  it('tells everyone of a batch that failed, and goes on', async () => {
    const { runtime, stepper } = setUp();
    runtime.failure = new Error('device lost');
    const results = await Promise.allSettled(tokens(2).map((token) => stepper.step(slot(token))));
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    runtime.failure = undefined;
    await expect(stepper.step(slot(3))).resolves.toEqual(Float32Array.of(3));
  });

  it('refuses everyone who waits when the device closes', async () => {
    const { runtime, turns, stepper } = setUp();
    const waiting = tokens(3).map((token) => stepper.step(slot(token)));
    turns.close();
    for (const step of waiting) {
      await expect(step).rejects.toMatchObject({ code: 'engine_unavailable' });
    }
    await expect(stepper.step(slot(1))).rejects.toMatchObject({ code: 'engine_unavailable' });
    expect(runtime.batches).toEqual([]);
  });
});

describe('batchSizes', () => {
  it('covers any count with few sizes, largest first', () => {
    for (let count = 0; count <= 40; count++) {
      const sizes = batchSizes(count);
      expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(count);
      expect(sizes.every((size) => [1, 2, 4, 8].includes(size))).toBe(true);
      expect(sizes).toEqual(sizes.toSorted((a, b) => b - a));
      // All but the largest size come up once at most.
      expect(sizes.filter((size) => size < 8)).toHaveLength(
        new Set(sizes.filter((s) => s < 8)).size,
      );
    }
  });
});
