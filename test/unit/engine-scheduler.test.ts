import { describe, expect, it } from 'vitest';
import { createRandom } from '../../src/core/random.ts';
import type { Scheduler } from '../../src/engine/scheduler.ts';
import { firstTokens, type ForwardSlot, type Tail } from '../../src/runtime/runtime.ts';
import { CountingTail, openScheduler } from '../support/fake-device.ts';

const { signal } = new AbortController();

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

describe('steps', () => {
  it('of all running answers are computed in one call', async () => {
    const { device, scheduler } = openScheduler();
    await Promise.all([5, 6, 7].map((question) => answer(scheduler, { question, steps: 3 })));
    expect(device.done).toEqual([
      [5, 6, 7],
      [1, 1, 1],
      [1, 1, 1],
      [1, 1, 1],
    ]);
  });

  it('let answers join and leave between any two of them', async () => {
    const { device, scheduler } = openScheduler();
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
    const { scheduler } = openScheduler();
    const tails = [7, 8, 9].map(() => new CountingTail());
    const logits = await Promise.all(
      tails.map((tail, i) => scheduler.forward(slot(tail, 3, 7 + i))),
    );
    expect(logits.map((each) => each.values()[0])).toEqual([7, 8, 9]);
  });

  it('that fail do so for all answers that fail alone, and not for later ones', async () => {
    const { device, scheduler } = openScheduler();
    device.error = new Error('the device failed');
    const failed = [3, 4].map((question) => answer(scheduler, { question, steps: 1 }));
    const outcomes = await Promise.allSettled(failed);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    device.error = undefined;
    await expect(answer(scheduler, { question: 3, steps: 1 })).resolves.toBeUndefined();
  });
});

describe('a call that fails', () => {
  it('is computed slot by slot, one a turn, and fails for those who fail alone', async () => {
    const { device, scheduler } = openScheduler();
    device.bad.add(2);
    const order: string[] = [];
    const asked = [1, 2, 3].map(async (id) => {
      const tail = new CountingTail();
      const [logits] = await Promise.allSettled([scheduler.forward(slot(tail, 5, id))]);
      order.push(`${id} ${logits.status} after ${device.done.length} calls`);
      if (logits.status === 'rejected') return NaN;
      await scheduler.forward(slot(tail, 1, id));
      return logits.value.values()[0];
    });
    expect(await Promise.all(asked)).toEqual([1, NaN, 3]);
    // Logits last for one more call: answers look at them after each.
    expect(order).toEqual([
      '1 fulfilled after 2 calls',
      '2 rejected after 3 calls',
      '3 fulfilled after 4 calls',
    ]);
    expect(device.done).toEqual([[5, 5, 5], [5], [5], [5], [1, 1]]);
  });

  it('fails for all of them if tails have grown: nobody is computed twice', async () => {
    const { device, scheduler } = openScheduler();
    device.bad.add(2);
    device.appendedByFailing = 1;
    const asked = [1, 2].map((id) => scheduler.forward(slot(new CountingTail(), 5, id)));
    const outcomes = await Promise.allSettled(asked);
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(device.done).toEqual([[5, 5]]);
  });

  it('refuses who is to be computed alone when the engine closes', async () => {
    const { device, scheduler } = openScheduler();
    device.bad.add(2);
    const asked = [1, 2, 3].map((id) => scheduler.forward(slot(new CountingTail(), 5, id)));
    const closed = asked[0]?.then(() => scheduler.close());
    const outcomes = await Promise.allSettled(asked);
    await closed;
    expect(outcomes).toMatchObject([
      { status: 'fulfilled' },
      { reason: { code: 'engine_unavailable' } },
      { reason: { code: 'engine_unavailable' } },
    ]);
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
    const { device, scheduler } = openScheduler();
    await Promise.all(questions.map((question) => answer(scheduler, { question, steps: 0 })));
    expect(device.done).toEqual(calls);
  });

  it('of a long question that is not cut are computed alone', async () => {
    const { device, scheduler } = openScheduler();
    const tails = [5, firstTokens + 1, 6].map(() => new CountingTail());
    const lengths = [5, firstTokens + 1, 6];
    await Promise.all(tails.map((tail, i) => scheduler.forward(slot(tail, lengths[i] ?? 0))));
    expect(device.done).toEqual([[5, 6], [firstTokens + 1]]);
  });

  it('may be those of a longer question, whose other pieces are computed alone', async () => {
    const { device, scheduler } = openScheduler();
    await Promise.all([150, 5].map((question) => answer(scheduler, { question, steps: 1 })));
    expect(device.done).toEqual([[64, 5], [1], [64], [22], [1]]);
  });

  it('leave room for a step between the pieces of a long question', async () => {
    const { device, scheduler } = openScheduler();
    const running = answer(scheduler, { question: 3, steps: 6 });
    await Promise.all([running, answer(scheduler, { question: 4 * firstTokens, steps: 0 })]);
    expect(device.done).toEqual([[3, 64], [1], [64], [1], [64], [1], [64], [1], [1], [1]]);
  });
});

describe('pieces of other work', () => {
  /** Runs pieces of `pieceMs` while an answer takes steps; says what was done, `s` for steps. */
  const order = async (pieceMs: number, { pieces, steps }: { pieces: number; steps: number }) => {
    const { device, scheduler } = openScheduler();
    const running = answer(scheduler, { question: 3, steps });
    for (let i = 0; i < pieces; i++) await scheduler.piece(device.piece(pieceMs));
    await running;
    return device.done.map((each) => (each === 'piece' ? 'p' : 's')).join('');
  };

  it('take about as much time as queries do', async () => {
    // A call takes 10 ms.
    expect(await order(25, { pieces: 5, steps: 11 })).toBe('spssspssspsspsssp');
    expect(await order(10, { pieces: 3, steps: 5 })).toBe('spspspsss');
    expect(await order(4, { pieces: 7, steps: 5 })).toBe('spppsppsppsss');
  });

  it('are never starved, however long they take', async () => {
    expect(await order(95, { pieces: 3, steps: 40 })).toMatch(/^sps{14}ps{9}ps+$/);
  });

  it.each([3, 20, 60, 250])(
    'of about %d ms get half of the device beside answers, none of which waits for long',
    async (pieceMs) => {
      const { device, scheduler } = openScheduler();
      const random = createRandom(7);
      const gaps: number[] = [];
      const over = new AbortController();
      const answering = async (question: number): Promise<void> => {
        while (!over.signal.aborted) {
          let lastMs = Number.NaN;
          const steps = 1 + Math.floor(20 * random.next());
          const onStep = (): void => {
            const nowMs = device.clock.nowMs();
            if (!Number.isNaN(lastMs)) gaps.push(nowMs - lastMs);
            lastMs = nowMs;
          };
          await answer(scheduler, { question, steps, onStep });
        }
      };
      const answers = [5, 30, 60, 90].map(answering);
      let piecesMs = 0;
      let longestMs = 0;
      while (device.clock.nowMs() < 20_000) {
        const durationMs = pieceMs * (0.5 + random.next());
        longestMs = Math.max(longestMs, durationMs);
        await scheduler.piece(device.piece(durationMs));
        piecesMs += durationMs;
      }
      const share = piecesMs / device.clock.nowMs();
      over.abort();
      await Promise.all(answers);
      expect(share).toBeGreaterThan(0.4);
      expect(share).toBeLessThan(0.6);
      // A round is a step and a call of questions.
      const roundMs = 2 * device.callMs;
      expect(Math.max(...gaps)).toBeLessThanOrEqual(2 * roundMs + 2 * longestMs);
      expect(gaps.length).toBeGreaterThan(100);
    },
  );

  it('do not catch up on the time that they did not ask for', async () => {
    const { device, scheduler } = openScheduler();
    let ran = 0;
    const before: number[] = [];
    const running = answer(scheduler, {
      question: 3,
      steps: 60,
      onStep: (step) => {
        before.push(ran);
        if (step !== 50) return;
        for (let i = 0; i < 20; i++) void scheduler.piece(device.piece(4)).then(() => ran++);
      },
    });
    await running;
    const each = before.map((count, step) => count - (before[step - 1] ?? 0)).slice(51);
    expect(Math.max(...each)).toBeLessThanOrEqual(4);
  });

  it('load contexts and read documents by turns', async () => {
    const { scheduler } = openScheduler();
    const done: string[] = [];
    const note = (what: string) => () => void done.push(what);
    await Promise.all([
      scheduler.piece(note('ingest 1')),
      scheduler.piece(note('ingest 2')),
      scheduler.load(note('load 1')),
      scheduler.load(note('load 2')),
    ]);
    expect(done).toEqual(['load 1', 'ingest 1', 'load 2', 'ingest 2']);
  });

  it('let all questions that came together begin together', async () => {
    const { device, scheduler } = openScheduler();
    const come = (question: number) => async (): Promise<void> => {
      await scheduler.load(device.piece(1));
      await answer(scheduler, { question, steps: 0 });
    };
    let others: Promise<unknown> | undefined;
    const onStep = (step: number): void => {
      if (step === 2) others = Promise.all([4, 5, 6, 7].map((question) => come(question)()));
    };
    await answer(scheduler, { question: 3, steps: 6, onStep });
    await others;
    const questions = device.done.filter((call) => call !== 'piece' && call[0] !== 1);
    expect(questions).toEqual([[3], [4, 5, 6, 7]]);
  });

  it('run one after another when nobody asks', async () => {
    expect(await order(1000, { pieces: 5, steps: 0 })).toBe('sppppp');
  });

  it('give what they return, and fail alone', async () => {
    const { scheduler } = openScheduler();
    const failing = scheduler.piece(() => {
      throw new Error('no such piece');
    });
    const next = scheduler.piece(() => 12);
    await expect(failing).rejects.toThrow('no such piece');
    await expect(next).resolves.toBe(12);
  });

  it('are not run for those who have given up by then', async () => {
    const { device, scheduler } = openScheduler();
    const cancellation = new AbortController();
    const first = scheduler.piece(device.piece(1));
    const second = scheduler.piece(device.piece(1), cancellation.signal);
    cancellation.abort(new Error('gave up'));
    await expect(second).rejects.toThrow('gave up');
    await first;
    expect(device.done).toEqual(['piece']);
  });
});

describe('a scheduler that is closed', () => {
  it('refuses all who wait and all who come', async () => {
    const { device, scheduler } = openScheduler({ maxRunning: 1 });
    const who = { tenant: '', contextId: 'c' };
    const leave = await scheduler.admit(who, signal);
    const asked = [
      scheduler.admit(who, signal),
      scheduler.forward(slot(new CountingTail(), 3)),
      scheduler.piece(device.piece(1)),
      scheduler.load(device.piece(1)),
    ];
    const settled = Promise.allSettled(asked);
    scheduler.close();
    scheduler.close();
    const later = [
      scheduler.admit(who, signal),
      scheduler.forward(slot(new CountingTail(), 3)),
      scheduler.piece(device.piece(1)),
      scheduler.load(device.piece(1)),
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
