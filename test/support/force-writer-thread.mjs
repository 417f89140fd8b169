/**
 * To be imported first (`--import`) into a process whose writes are all to be stored by the writing
 * thread, which is started, and has started, before the first of them. The URL's query says where
 * it is: `module`, the URL of batch-writer; and perhaps a file that gets a byte for each batch that
 * the thread is given: `log`.
 */
import { appendFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { isMainThread } from 'node:worker_threads';

const pollMs = 5;
const longestStartMs = 60_000;

if (isMainThread) {
  const { searchParams } = new URL(import.meta.url);
  const log = searchParams.get('log');
  const { BatchWriter } = await import(searchParams.get('module') ?? '');
  const { put } = BatchWriter.prototype;
  BatchWriter.prototype.takes = () => true;
  BatchWriter.prototype.put = async function putByThread(batch) {
    if (!this.isReady) {
      await put.call(this, { ...batch, pieces: [], memory: new ArrayBuffer(0) }, Infinity);
      await untilReady(this);
    }
    if (log !== null) appendFileSync(log, '.');
    return put.call(this, batch, Infinity);
  };
}

async function untilReady(writer) {
  const limitMs = performance.now() + longestStartMs;
  while (!writer.isReady) {
    if (performance.now() > limitMs) throw new Error('Expected the writing thread to start');
    await delay(pollMs);
  }
}
