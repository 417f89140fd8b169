import { readdirSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { buffer } from 'node:stream/consumers';
import { expect, test, vi } from 'vitest';
import type { Context } from '../../src/client/types.ts';
import { defined } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { forgeFile, inParts, portableSample } from '../support/portable-samples.ts';
import { expectedContent, readWhole } from '../support/storage-samples.ts';
import { until } from '../support/test-server.ts';
import { startTransferServer } from '../support/transfer-server.ts';

// Four heads keep 6 of their 20 document pairs together: 0.3, as the record says.
const sample = portableSample({ seed: 5, kept: [5, 0, 1, 0], usage: { labels: { a: 'b' } } });
const { id } = sample.record;
const file = forgeFile(sample, { manifest: { record: sample.record, labels: { a: 'b' } } });
/** Above what sockets and streams buffer between server and client. */
const large = portableSample({ seed: 6, kept: [4096], rowBytes: 512, prefixTokens: 0 });

function importBytes(
  url: string,
  body: Uint8Array<ArrayBuffer>,
  type = 'application/octet-stream',
) {
  return fetch(`${url}/contexts/import`, {
    method: 'POST',
    headers: { 'Content-Type': type },
    body,
  });
}

test('a context travels from one server to another and is the same there', async () => {
  const [from, to] = [await startTransferServer(sample), await startTransferServer(sample)];
  await from.store.write(sample);
  const imported = await to.client.import(await from.client.export(id));
  const original = await from.client.get(id);
  expect(imported).toEqual({
    ...original,
    reused: false,
    lastUsedAt: imported.lastUsedAt,
    size: { ...original.size, diskBytes: imported.size.diskBytes },
  });
  expect(readWhole(to.store, sample)).toEqual({
    stored: to.store.get(id),
    ...expectedContent(sample),
  });
});

test('an export is a download with a name, and the same file each time', async () => {
  const { store, url } = await startTransferServer(sample);
  await store.write(sample);
  const response = await fetch(`${url}/contexts/${id}/export`);
  expect(response.status).toBe(200);
  expect(response.headers.get('content-type')).toBe('application/octet-stream');
  expect(response.headers.get('content-disposition')).toBe(`attachment; filename="${id}.readonce"`);
  expect(Buffer.from(await response.arrayBuffer()).equals(file)).toBe(true);
});

test('an import answers 201 with its Location, and 200 once it is stored', async () => {
  const { url } = await startTransferServer(sample);
  const first = await importBytes(url, new Uint8Array(file));
  expect(first.status).toBe(201);
  expect(first.headers.get('location')).toBe(`/contexts/${id}`);
  expect(await first.json()).toMatchObject({ id, status: 'ready', reused: false });
  const again = await importBytes(url, new Uint8Array(file));
  expect(again.status).toBe(200);
  expect(await again.json()).toMatchObject({ id, reused: true, labels: { a: 'b' } });
});

test('importing revives a context that has expired', async () => {
  const { url, store, clock } = await startTransferServer(sample);
  await store.write(sample);
  await store.update(id, { expiresAtMs: clock.nowMs() - 1 });
  expect((await fetch(`${url}/contexts/${id}/export`)).status).toBe(410);
  const revived = (await (await importBytes(url, new Uint8Array(file))).json()) as Context;
  expect(revived).toMatchObject({ reused: true, expiresAt: null });
});

test.each<[string, Uint8Array, string]>([
  ['nothing', new Uint8Array(), 'invalid_argument'],
  ['text', Buffer.from('no context file at all, but long enough'), 'invalid_argument'],
  ['half a file', file.subarray(0, file.byteLength / 2), 'invalid_argument'],
  [
    'a file of another model',
    forgeFile(portableSample({ seed: 5, fingerprint: 'sha256:other' })),
    'identity_mismatch',
  ],
  [
    'a precision that is not built',
    forgeFile(portableSample({ seed: 5, kept: [5, 0, 1, 0], precision: 'f8' })),
    'invalid_argument',
  ],
  [
    'more pairs than its ratio keeps',
    forgeFile(portableSample({ seed: 5, kept: [5, 1, 1, 0] })),
    'invalid_argument',
  ],
])('an import of %s is refused, and nothing is kept', async (_, bytes, code) => {
  const { store, client } = await startTransferServer(sample);
  await expect(client.import(inParts(bytes))).rejects.toMatchObject({ code });
  expect(store.stats().contexts).toBe(0);
  expect(readdirSync(store.folder).toSorted()).toEqual(['data.mdb', 'lock.mdb']);
});

test('an import is refused above its limit, whether the length was told or not', async () => {
  const limits = { http: { maxImportBytes: file.byteLength - 1 } };
  const { client, url, store } = await startTransferServer(sample, limits);
  await expect(client.import(inParts(file))).rejects.toMatchObject({ code: 'payload_too_large' });
  expect((await importBytes(url, new Uint8Array(file))).status).toBe(413);
  expect(store.get(id)).toBeUndefined();
});

test('an import is refused as another media type, and before an engine has started', async () => {
  const { url, engine } = await startTransferServer(sample);
  expect((await importBytes(url, new Uint8Array(file), 'text/plain')).status).toBe(415);
  engine.info = undefined;
  expect((await importBytes(url, new Uint8Array(file))).status).toBe(503);
});

test('an import that does not fit the quota is refused as storage_full', async () => {
  const { client, store } = await startTransferServer(sample, { store: { maxBytes: 200_000 } });
  await expect(client.import(inParts(file))).rejects.toMatchObject({ code: 'storage_full' });
  expect(store.get(id)).toBeUndefined();
});

test('a client that breaks off its upload leaves nothing behind', async () => {
  const { url, store, logLines } = await startTransferServer(sample);
  const upload = httpRequest(`${url}/contexts/import`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/octet-stream', 'Content-Length': file.byteLength },
  });
  upload.on('error', () => undefined);
  upload.write(file.subarray(0, file.byteLength - 40), () => upload.destroy());
  await until(() => logLines.some((line) => line.includes('/contexts/import')));
  expect(logLines.join('')).toContain('"status":499');
  expect(logLines.join('')).not.toContain('request failed');
  expect(store.get(id)).toBeUndefined();
  expect(readdirSync(store.folder).toSorted()).toEqual(['data.mdb', 'lock.mdb']);
});

test('an export waits for its client instead of filling memory, and stops when it leaves', async () => {
  const { url, store } = await startTransferServer(large);
  await store.write(large);
  const response = await fetch(`${url}/contexts/${large.record.id}/export`);
  const reader = defined(response.body, 'the body').getReader();
  await reader.read();
  // The rest is still in the store: deleting it breaks the transfer off.
  await store.delete(large.record.id);
  const rest = async () => {
    while (!(await reader.read()).done);
  };
  await expect(rest()).rejects.toThrow();
});

test('an export whose context is quarantined breaks off, and the log says why', async () => {
  const { client, store, logLines } = await startTransferServer(large);
  await store.write(large);
  const stream = await client.export(large.record.id);
  store.quarantine(large.record.id, { reason: 'a test' });
  await expect(buffer(stream)).rejects.toThrow();
  expect(logLines.join('')).toContain('export broke off');
});

test.each<['readRanking' | 'readPairs', string]>([
  ['readRanking', id],
  ['readPairs', large.record.id],
])('an export whose %s fails a check moves the context aside', async (method, contextId) => {
  const exported = contextId === id ? sample : large;
  const { url, store, engine } = await startTransferServer(exported);
  await store.write(exported);
  vi.spyOn(store, method).mockImplementationOnce(() => {
    throw new ReadonceError('corrupt_record', 'Checksum differs.');
  });
  await fetch(`${url}/contexts/${contextId}/export`)
    .then((response) => response.arrayBuffer())
    .catch(() => undefined);
  expect(store.get(contextId)).toBeUndefined();
  expect(store.listQuarantined().map((quarantined) => quarantined.id)).toEqual([contextId]);
  expect(engine.unloaded).toEqual([contextId]);
});

test('an export of what is unknown is a problem', async () => {
  const { client } = await startTransferServer(sample);
  const failed: unknown = await client.export(id).catch((error: unknown) => error);
  expect(failed).toBeInstanceOf(ReadonceError);
  expect(failed).toMatchObject({ code: 'not_found' });
});

test('both are in the OpenAPI document', async () => {
  const { url } = await startTransferServer(sample);
  const document = (await (await fetch(`${url}/openapi.json`)).json()) as {
    readonly paths: Record<string, Record<string, unknown>>;
  };
  expect(document.paths['/contexts/import']?.['post']).toMatchObject({
    operationId: 'importContext',
    requestBody: { content: { 'application/octet-stream': {} } },
  });
  expect(document.paths['/contexts/{id}/export']?.['get']).toMatchObject({
    operationId: 'exportContext',
  });
});

test('metrics count what the store holds', async () => {
  const { url, store } = await startTransferServer(sample);
  await store.write(sample);
  const text = await (await fetch(`${url}/metrics`)).text();
  expect(text).toContain('readonce_store_contexts{state="stored"} 1\n');
  expect(text).toContain('readonce_store_contexts{state="quarantined"} 0\n');
  const used = /readonce_store_bytes\{state="used"\} (\d+)/.exec(text)?.[1];
  expect(Number(used)).toBe(store.stats().usedBytes);
});
