import { expect, test } from 'vitest';
import { Gate } from '../support/fake-engine.ts';
import { startTestServer, until } from '../support/test-server.ts';

test('bodies that are too large together are refused, small ones and later ones are not', async () => {
  // Two of the bodies below fit, less the part that is free of each.
  const server = await startTestServer({
    http: { maxBodyBytes: 160_000, maxBodiesBytes: 180_000 },
  });
  const { id } = (await (await server.put({ document: 'text' })).json()) as { id: string };
  const put = (letter: string) => server.put({ document: letter.repeat(150_000) });
  server.engine.ingestGate = new Gate();
  const held = [put('a'), put('b')];
  await until(() => server.engine.ingests === 3);
  const refused = await put('c');
  expect(refused.status).toBe(503);
  expect(refused.headers.get('retry-after')).toBe('5');
  expect(await refused.json()).toMatchObject({ code: 'overloaded' });
  expect((await server.query(id, { query: 'q' })).status).toBe(200);
  server.engine.ingestGate.open();
  for (const response of await Promise.all(held)) expect(response.status).toBe(201);
  expect((await put('c')).status).toBe(201);
  await server.close();
});
