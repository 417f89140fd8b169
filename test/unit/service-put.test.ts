import { expect, test } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import type { PutInput } from '../../src/service/put-context.ts';
import { Gate } from '../support/fake-engine.ts';
import { createTestService, until } from '../support/test-server.ts';

const never = new AbortController().signal;
const input = (document: string): PutInput => ({
  tenant: '',
  document,
  instructions: undefined,
  compression: {},
});

test('a context stored between look-up and start is not ingested again', async () => {
  const { service, engine, store } = createTestService();
  const identify = engine.identify.bind(engine);
  let raced = false;
  engine.identify = async (request) => {
    const identified = await identify(request);
    if (!raced) {
      raced = true;
      // Another request identifies, ingests and finishes before this one goes on.
      await service.put(input('text'), { wait: true, signal: never });
    }
    return identified;
  };
  const result = await service.put(input('text'), { wait: true, signal: never });
  expect(result.outcome).toBe('reused');
  expect(engine.ingests).toBe(1);
  expect(store.contexts.size).toBe(1);
});

test('a PUT after a DELETE waits for the stopped ingestion and ingests anew', async () => {
  const { service, engine } = createTestService();
  engine.ingestGate = new Gate();
  const first = service.put(input('text'), { wait: true, signal: never });
  const stopped = expect(first).rejects.toMatchObject({ code: 'conflict' });
  await until(() => engine.ingests === 1);
  const accepted = await service.put(input('text'), { wait: false, signal: never });
  const deleted = service.contexts.delete({ tenant: '', id: accepted.context.id });
  const again = service.put(input('text'), { wait: true, signal: never });
  await deleted;
  await stopped;
  engine.ingestGate.open();
  expect((await again).outcome).toBe('created');
  expect(engine.ingests).toBe(2);
});

test('a context that keeps vanishing is a conflict, not an endless loop', async () => {
  const { service, engine, store } = createTestService();
  await service.put(input('text'), { wait: true, signal: never });
  store.update = () => Promise.resolve(undefined);
  await expect(service.put(input('text'), { wait: true, signal: never })).rejects.toMatchObject({
    code: 'conflict',
  });
  expect(engine.ingests).toBe(1);
});

test('instructions and compression make another context; white space around text does not', async () => {
  const { service } = createTestService();
  const put = async (changed: Partial<PutInput>) => {
    const result = await service.put(
      { ...input('text'), ...changed },
      { wait: true, signal: never },
    );
    return result.context.id;
  };
  const id = await put({});
  expect(await put({ document: '\ttext\n' })).toBe(id);
  expect(await put({ instructions: '' })).toBe(id);
  expect(await put({ instructions: 'Be brief.' })).not.toBe(id);
  expect(await put({ compression: { keepRatio: 0.2 } })).not.toBe(id);
});

test('a place is given back whether an ingestion succeeds or fails', async () => {
  const { service, engine } = createTestService({ maxQueuedIngests: 1 });
  engine.ingestFailure = new ReadonceError('out_of_memory', 'Expected more memory.');
  await expect(service.put(input('a'), { wait: true, signal: never })).rejects.toThrow('memory');
  engine.ingestFailure = undefined;
  await service.put(input('b'), { wait: true, signal: never });
  expect((await service.put(input('c'), { wait: true, signal: never })).outcome).toBe('created');
});

test('nothing is ingested once the service was closed; what is stored is still found', async () => {
  const { service, engine } = createTestService();
  await service.put(input('a'), { wait: true, signal: never });
  await service.close();
  await expect(service.put(input('b'), { wait: true, signal: never })).rejects.toMatchObject({
    code: 'engine_unavailable',
  });
  expect((await service.put(input('a'), { wait: true, signal: never })).outcome).toBe('reused');
  expect(engine.ingests).toBe(1);
});

test('the metrics tell ingested, reused, joined, failed and cancelled PUTs apart', async () => {
  const { service, engine, metrics } = createTestService();
  await service.put(input('a'), { wait: true, signal: never });
  await service.put(input('a'), { wait: true, signal: never });
  engine.ingestGate = new Gate();
  const running = [1, 2].map(() => service.put(input('b'), { wait: true, signal: never }));
  await until(() => engine.identifies === 4);
  engine.ingestGate.open();
  await Promise.all(running);
  engine.ingestFailure = new ReadonceError('storage_full', 'full');
  await expect(service.put(input('c'), { wait: true, signal: never })).rejects.toThrow('full');
  engine.ingestGate = new Gate();
  const stopped = service.put(input('d'), { wait: true, signal: never });
  const rejected = expect(stopped).rejects.toMatchObject({ code: 'engine_unavailable' });
  await until(() => engine.ingests === 4);
  await service.close();
  await rejected;
  const { values } = await metrics.ingests.get();
  const counts = Object.fromEntries(values.map(({ labels, value }) => [labels.outcome, value]));
  expect(counts).toEqual({ ingested: 2, reused: 1, joined: 1, failed: 1, cancelled: 1 });
  expect((await metrics.runningIngests.get()).values[0]?.value).toBe(0);
});

test('as many wait for their look-up as may wait for ingestions and answers', async () => {
  const { service, engine } = createTestService({ maxQueuedIngests: 3, maxQueuedQueries: 40 });
  const identify = engine.identify.bind(engine);
  const gate = new Gate();
  engine.identify = async (request) => {
    await gate.opened;
    return identify(request);
  };
  const asked = { wait: true, signal: never };
  const puts = Array.from({ length: 42 }, () => {
    const { signal } = new AbortController();
    return service.put(input('text'), { ...asked, signal });
  });
  const cancellation = new AbortController();
  const { signal } = cancellation;
  const givenUp = service.put(input('text'), { ...asked, signal });
  const oneMore = service.put(input('text'), asked);
  await expect(oneMore).rejects.toMatchObject({ code: 'overloaded' });
  // Whoever gives up makes room at once, though the engine is still at it.
  cancellation.abort(new Error('gave up'));
  await expect(givenUp).rejects.toThrow('gave up');
  puts.push(service.put(input('text'), asked));
  gate.open();
  const outcomes = (await Promise.all(puts)).map(({ outcome }) => outcome);
  expect(outcomes.filter((outcome) => outcome === 'created')).toHaveLength(1);
  expect(engine.ingests).toBe(1);
});
