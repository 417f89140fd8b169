import { describe, expect, it } from 'vitest';
import { Scheduler, type Asker } from '../../src/engine/scheduler.ts';
import { floatLogits } from '../../src/runtime/float-logits.ts';
import {
  firstTokens,
  type ForwardSlot,
  type Logits,
  type Tail,
} from '../../src/runtime/runtime.ts';

const { signal } = new AbortController();

/** A tail that counts its rows. */
class CountingTail implements Tail {
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
class FakeDevice {
  readonly done: (readonly number[] | 'piece')[] = [];
  callMs = 10;
  error: Error | undefined;
  #nowMs = 0;

  readonly clock = { nowMs: () => this.#nowMs, monotonicMs: () => this.#nowMs };
  readonly runtime = {
    forward: (slots: readonly ForwardSlot[]): readonly Logits[] => {
      if (this.error !== undefined) throw this.error;
      this.done.push(slots.map(({ ids }) => ids.length));
      this.#nowMs += this.callMs;
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

interface Limits {
  readonly maxRunning?: number;
  readonly maxWaitMs?: number;
}

function open({ maxRunning = 4, maxWaitMs = 60_000 }: Limits = {}) {
  const device = new FakeDevice();
  const { runtime, clock } = device;
  return { device, scheduler: new Scheduler({ runtime, clock, maxRunning, maxWaitMs }) };
}

function slot(tail: Tail, tokens: number, firstId = 0): ForwardSlot {
  const context = { lengths: new Uint32Array(), close: () => undefined };
  const ids = new Int32Array(tokens);
  ids[0] = firstId;
  return { context, tail, ids, startPosition: tail.length };
}

/** An answer: a question in pieces as it is computed, then as many steps. */
async function answer(
  scheduler: Scheduler,
  { question, steps, onStep }: { question: number; steps: number; onStep?: (step: number) => void },
): Promise<void> {
  const tail = new CountingTail();
  for (let left = question; left > 0; left -= firstTokens) {
    await scheduler.forward(slot(tail, Math.min(firstTokens, left)));
  }
  for (let step = 0; step < steps; step++) {
    onStep?.(step);
    await scheduler.forward(slot(tail, 1));
  }
}

/** Lets everything that can go on now go on. */
async function settle(): Promise<void> {
  for (let i = 0; i < 10; i++) await new Promise((resolve) => setImmediate(resolve));
}

describe('steps', () => {
  it('of all running answers are computed in one call', async () => {
    const { device, scheduler } = open();
    await Promise.all([5, 6, 7].map((question) => answer(scheduler, { question, steps: 3 })));
    expect(device.done).toEqual([
      [5, 6, 7],
      [1, 1, 1],
      [1, 1, 1],
      [1, 1, 1],
    ]);
  });

  it('let answers join and leave between any two of them', async () => {
    const { device, scheduler } = open();
    let second: Promise<void> | undefined;
    await answer(scheduler, {
      question: 5,
      steps: 5,
      onStep: (step) => {
        if (step === 1) second = answer(scheduler, { question: 9, steps: 2 });
      },
    });
    await second;
    expect(device.done).toEqual([[5], [1], [1], [9], [1, 1], [1, 1], [1]]);
  });

  it('give each answer its own logits', async () => {
    const { scheduler } = open();
    const tails = [7, 8, 9].map(() => new CountingTail());
    const logits = await Promise.all(
      tails.map((tail, i) => scheduler.forward(slot(tail, 3, 7 + i))),
    );
    expect(logits.map((each) => each.values()[0])).toEqual([7, 8, 9]);
  });

  it('that fail do so for all answers of the call, and not for later ones', async () => {
    const { device, scheduler } = open();
    device.error = new Error('the device failed');
    const failed = [3, 4].map((question) => answer(scheduler, { question, steps: 1 }));
    const outcomes = await Promise.allSettled(failed);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    device.error = undefined;
    await expect(answer(scheduler, { question: 3, steps: 1 })).resolves.toBeUndefined();
  });
});

describe('first tokens', () => {
  it.each([
    { questions: [60, 60, 60], calls: [[60, 60], [60]] },
    { questions: [64, 64, 1], calls: [[64, 64], [1]] },
    // Who does not fit waits for the next call, and lets others begin.
    { questions: [60, 64, 10, 4], calls: [[60, 64, 4], [10]] },
    { questions: [64], calls: [[64]] },
  ])('of $questions are computed together up to the limit', async ({ questions, calls }) => {
    const { device, scheduler } = open();
    await Promise.all(questions.map((question) => answer(scheduler, { question, steps: 0 })));
    expect(device.done).toEqual(calls);
  });

  it('of a long question that is not cut are computed alone', async () => {
    const { device, scheduler } = open();
    const tails = [5, firstTokens + 1, 6].map(() => new CountingTail());
    const lengths = [5, firstTokens + 1, 6];
    await Promise.all(tails.map((tail, i) => scheduler.forward(slot(tail, lengths[i] ?? 0))));
    expect(device.done).toEqual([[5, 6], [firstTokens + 1]]);
  });

  it('may be those of a longer question, whose other pieces are computed alone', async () => {
    const { device, scheduler } = open();
    await Promise.all([150, 5].map((question) => answer(scheduler, { question, steps: 1 })));
    expect(device.done).toEqual([[64, 5], [1], [64], [22], [1]]);
  });

  it('leave room for a step between the pieces of a long question', async () => {
    const { device, scheduler } = open();
    const running = answer(scheduler, { question: 3, steps: 6 });
    await Promise.all([running, answer(scheduler, { question: 4 * firstTokens, steps: 0 })]);
    expect(device.done).toEqual([[3, 64], [1], [64], [1], [64], [1], [64], [1], [1], [1]]);
  });
});

describe('pieces of other work', () => {
  /** Runs pieces of `pieceMs` while an answer takes steps; says what was done, `s` for steps. */
  const order = async (pieceMs: number, { pieces, steps }: { pieces: number; steps: number }) => {
    const { device, scheduler } = open();
    const running = answer(scheduler, { question: 3, steps });
    for (let i = 0; i < pieces; i++) await scheduler.piece(device.piece(pieceMs));
    await running;
    return device.done.map((each) => (each === 'piece' ? 'p' : 's')).join('');
  };

  it('take at most as much time as queries had since the last one', async () => {
    // A call takes 10 ms.
    expect(await order(25, { pieces: 4, steps: 11 })).toBe('spssspssspssspss');
    expect(await order(10, { pieces: 3, steps: 5 })).toBe('spspspsss');
    expect(await order(1, { pieces: 3, steps: 5 })).toBe('spspspsss');
  });

  it('are never starved, however long they take', async () => {
    expect(await order(95, { pieces: 2, steps: 30 })).toMatch(/^sps{10}ps+$/);
  });

  it('run one after another when nobody asks', async () => {
    expect(await order(1000, { pieces: 5, steps: 0 })).toBe('sppppp');
  });

  it('give what they return, and fail alone', async () => {
    const { scheduler } = open();
    const failing = scheduler.piece(() => {
      throw new Error('no such piece');
    });
    const next = scheduler.piece(() => 12);
    await expect(failing).rejects.toThrow('no such piece');
    await expect(next).resolves.toBe(12);
  });

  it('are not run for those who have given up by then', async () => {
    const { device, scheduler } = open();
    const cancellation = new AbortController();
    const first = scheduler.piece(device.piece(1));
    const second = scheduler.piece(device.piece(1), cancellation.signal);
    cancellation.abort(new Error('gave up'));
    await expect(second).rejects.toThrow('gave up');
    await first;
    expect(device.done).toEqual(['piece']);
  });
});

describe('admission', () => {
  const asker = (tenant: string, contextId = 'c'): Asker => ({ tenant, contextId });

  /** Takes places; the names of those who came in, and what gives each place back. */
  const openDoor = (limits: Limits) => {
    const { scheduler } = open(limits);
    const entered: string[] = [];
    const leave = new Map<string, () => void>();
    const come = async (name: string, who: Asker): Promise<void> => {
      leave.set(name, await scheduler.admit(who, signal));
      entered.push(name);
    };
    const goes = async (name: string): Promise<void> => {
      leave.get(name)?.();
      await settle();
    };
    return { scheduler, entered, come, goes };
  };

  it('is first come first served for one tenant and one context', async () => {
    const { scheduler, entered, come, goes } = openDoor({ maxRunning: 2 });
    const all = ['1', '2', '3', '4'].map((name) => come(name, asker('a')));
    await settle();
    expect(entered).toEqual(['1', '2']);
    expect(scheduler.running).toBe(2);
    await goes('2');
    expect(entered).toEqual(['1', '2', '3']);
    await goes('1');
    await Promise.all(all);
    expect(entered).toEqual(['1', '2', '3', '4']);
    await goes('3');
    await goes('4');
    expect(scheduler.running).toBe(0);
  });

  it('prefers the tenant that has the fewest running', async () => {
    const { entered, come, goes } = openDoor({ maxRunning: 3 });
    for (const name of ['a1', 'a2', 'a3', 'a4', 'a5']) void come(name, asker('a'));
    void come('b1', asker('b'));
    void come('b2', asker('b'));
    await settle();
    await goes('a1');
    expect(entered).toEqual(['a1', 'a2', 'a3', 'b1']);
    // As many of each are left: who came first is next.
    await goes('a2');
    expect(entered.at(-1)).toBe('a4');
    await goes('b1');
    expect(entered.at(-1)).toBe('b2');
    await goes('b2');
    await goes('a3');
    expect(entered.at(-1)).toBe('a5');
  });

  it('prefers the context that has the fewest running, of one tenant', async () => {
    const { entered, come, goes } = openDoor({ maxRunning: 2 });
    for (const name of ['x1', 'x2', 'x3']) void come(name, asker('a', 'x'));
    void come('y1', asker('a', 'y'));
    await settle();
    await goes('x1');
    expect(entered).toEqual(['x1', 'x2', 'y1']);
    await goes('y1');
    expect(entered.at(-1)).toBe('x3');
  });

  it('looks at tenants before contexts', async () => {
    const { entered, come, goes } = openDoor({ maxRunning: 2 });
    void come('a-x', asker('a', 'x'));
    void come('b-y', asker('b', 'y'));
    void come('a-z', asker('a', 'z'));
    void come('b-x', asker('b', 'x'));
    await settle();
    await goes('b-y');
    expect(entered).toEqual(['a-x', 'b-y', 'b-x']);
  });

  it('counts a place that is given back twice once', async () => {
    const { scheduler, entered, come, goes } = openDoor({ maxRunning: 2 });
    for (const name of ['1', '2', '3', '4']) void come(name, asker('a'));
    await settle();
    await goes('1');
    await goes('1');
    await goes('1');
    expect(entered).toEqual(['1', '2', '3']);
    expect(scheduler.running).toBe(2);
  });

  it('refuses whoever has waited too long', async () => {
    const { scheduler, come, goes, entered } = openDoor({ maxRunning: 1, maxWaitMs: 20 });
    await come('1', asker('a'));
    await expect(scheduler.admit(asker('b'), signal)).rejects.toMatchObject({
      code: 'overloaded',
      retryAfterSeconds: 2,
      details: { maxWaitMs: 20 },
    });
    await goes('1');
    expect(scheduler.running).toBe(0);
    await come('2', asker('a'));
    expect(entered).toEqual(['1', '2']);
  });

  it('is given up by an abort, before and while waiting', async () => {
    const { scheduler, come, goes } = openDoor({ maxRunning: 1 });
    await expect(scheduler.admit(asker('a'), AbortSignal.abort('early'))).rejects.toBe('early');
    expect(scheduler.running).toBe(0);
    await come('1', asker('a'));
    const cancellation = new AbortController();
    const waiting = scheduler.admit(asker('a'), cancellation.signal);
    cancellation.abort('late');
    await expect(waiting).rejects.toBe('late');
    await goes('1');
    expect(scheduler.running).toBe(0);
  });

  it('loses no place to one who gives up as it gets it', async () => {
    const { scheduler, come, goes } = openDoor({ maxRunning: 1 });
    await come('1', asker('a'));
    const cancellation = new AbortController();
    const waiting = scheduler.admit(asker('a'), cancellation.signal);
    const given = goes('1');
    cancellation.abort('late');
    const [outcome] = await Promise.allSettled([waiting, given]);
    if (outcome.status === 'fulfilled') outcome.value();
    expect(scheduler.running).toBe(0);
  });
});

describe('a scheduler that is closed', () => {
  it('refuses all who wait and all who come', async () => {
    const { device, scheduler } = open({ maxRunning: 1 });
    const who = { tenant: '', contextId: 'c' };
    const leave = await scheduler.admit(who, signal);
    const asked = [
      scheduler.admit(who, signal),
      scheduler.forward(slot(new CountingTail(), 3)),
      scheduler.piece(device.piece(1)),
    ];
    const settled = Promise.allSettled(asked);
    scheduler.close();
    scheduler.close();
    const later = [
      scheduler.admit(who, signal),
      scheduler.forward(slot(new CountingTail(), 3)),
      scheduler.piece(device.piece(1)),
    ];
    const outcomes = [...(await settled), ...(await Promise.allSettled(later))];
    for (const outcome of outcomes) {
      expect(outcome).toMatchObject({
        status: 'rejected',
        reason: { code: 'engine_unavailable', retryAfterSeconds: 1 },
      });
    }
    leave();
    expect(scheduler.running).toBe(0);
    expect(device.done).toEqual([]);
  });
});
