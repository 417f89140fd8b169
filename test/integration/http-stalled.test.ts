import { connect } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Gate } from '../support/fake-engine.ts';
import { startTestServer, until, type TestServer } from '../support/test-server.ts';

const maxStalledMs = 300;
/** Twice this is above what the sockets of both sides buffer. */
const longQuery = 'x'.repeat(8_000_000);

function start(): Promise<TestServer> {
  // Closing would wait for answers that are not complete longer than the test runs.
  return startTestServer({ maxStalledMs, shutdownMs: 600_000 });
}

async function putReady(server: TestServer): Promise<string> {
  return ((await (await server.put({ document: 'text' })).json()) as { id: string }).id;
}

test('a connection whose client stops reading is closed', async () => {
  const server = await start();
  const id = await putReady(server);
  const body = JSON.stringify({ query: longQuery, stream: true });
  const socket = connect(server.http.port, '127.0.0.1').pause();
  socket.on('error', () => undefined);
  socket.write(
    `POST /contexts/${id}/query HTTP/1.1\r\nHost: localhost\r\n` +
      `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  await until(() => server.engine.queries.length === 1);
  await server.close();
  let received = 0;
  socket.on('data', (part: Buffer) => (received += part.byteLength));
  socket.resume();
  await new Promise((resolve) => {
    socket.once('close', resolve);
  });
  expect(received).toBeLessThan(2 * longQuery.length);
});

test('a client that waits for its answer is not taken for one that stopped reading', async () => {
  const server = await start();
  const id = await putReady(server);
  server.engine.queryGate = new Gate();
  const answer = server.query(id, { query: 'abc' });
  await sleep(2 * maxStalledMs);
  server.engine.queryGate.open();
  expect(await (await answer).json()).toMatchObject({ answer: 'cba' });
  await server.close();
});
