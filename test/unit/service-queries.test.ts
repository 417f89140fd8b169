import { expect, test } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { createTestService } from '../support/test-server.ts';

const never = () => new AbortController().signal;

async function readyService() {
  const parts = createTestService({ maxQueuedQueries: 1 });
  const { context } = await parts.service.put(
    { tenant: '', document: 'text', instructions: undefined, compression: {} },
    { wait: true, signal: never() },
  );
  const ask = (input: object) =>
    parts.service.queries.query(
      { tenant: '', id: context.id },
      { query: 'q', ...input },
      { arrivedAtMs: performance.now(), onText: () => undefined },
      never(),
    );
  return { ...parts, id: context.id, ask };
}

test('a query that says nothing is greedy, of 128 tokens, with a seed drawn anew', async () => {
  const { engine, ask } = await readyService();
  for (let i = 0; i < 8; i++) await ask({});
  const [first] = engine.queries;
  expect(first?.sampling).toMatchObject({
    maxTokens: 128,
    temperature: 0,
    topP: 1,
    topK: 0,
    stop: [],
  });
  // Eight equal draws of 32 bits have a chance of 2^-224.
  expect(new Set(engine.queries.map(({ sampling }) => sampling.seed)).size).toBeGreaterThan(1);
});

test('a smaller keepRatio is passed on, the stored one too, a larger one refused', async () => {
  const { engine, ask } = await readyService();
  await ask({ keepRatio: 0.2 });
  await ask({ keepRatio: 0.3 });
  expect(engine.queries.map(({ source }) => source)).toMatchObject([
    { keepRatio: 0.2 },
    { keepRatio: 0.3 },
  ]);
  await expect(ask({ keepRatio: 0.31 })).rejects.toMatchObject({
    code: 'invalid_argument',
    details: { path: 'keepRatio', keepRatio: 0.31, storedKeepRatio: 0.3 },
  });
});

test('a failed query gives its place back', async () => {
  const { engine, ask } = await readyService();
  engine.queryFailure = new ReadonceError('out_of_memory', 'Expected more memory.');
  await expect(ask({})).rejects.toThrow('memory');
  engine.queryFailure = undefined;
  await expect(ask({})).resolves.toMatchObject({ answer: 'q' });
});

test('a client that leaves before the engine is asked has cancelled, not failed', async () => {
  const { service, engine, metrics, id } = await readyService();
  engine.query = (_request, _onText, signal) => Promise.reject(signal?.reason as Error);
  const reason = new Error('the client left');
  const options = { arrivedAtMs: performance.now(), onText: () => undefined };
  const ref = { tenant: '', id };
  const asked = service.queries.query(ref, { query: 'q' }, options, AbortSignal.abort(reason));
  await expect(asked).rejects.toBe(reason);
  const { values } = await metrics.queries.get();
  expect(values).toMatchObject([{ labels: { outcome: 'cancelled' }, value: 1 }]);
});

test('a query notes the use of its context', async () => {
  const { store, clock, id, ask } = await readyService();
  const createdAtMs = store.get(id)?.usage.lastUsedAtMs ?? Infinity;
  clock.advance(5000);
  await ask({});
  expect(store.get(id)?.usage.lastUsedAtMs).toBeGreaterThanOrEqual(createdAtMs + 5000);
});

test('a query of a context with a damaged record says so once, and then finds nothing', async () => {
  const { store, id, ask } = await readyService();
  store.corrupt.add(id);
  await expect(ask({})).rejects.toMatchObject({ code: 'corrupt_record' });
  await expect(ask({})).rejects.toMatchObject({ code: 'not_found' });
});
