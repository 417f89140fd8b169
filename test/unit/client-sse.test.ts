import { describe, expect, it } from 'vitest';
import { parseSse, type SseEvent } from '../../src/client/sse.ts';

/** The events of a text that arrives in pieces of `pieceBytes` bytes. */
async function parse(text: string, pieceBytes = 1e9): Promise<SseEvent[]> {
  const bytes = Buffer.from(text, 'utf8');
  async function* pieces(): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < bytes.length; i += pieceBytes) yield bytes.subarray(i, i + pieceBytes);
  }
  const events: SseEvent[] = [];
  for await (const event of parseSse(pieces())) events.push(event);
  return events;
}

describe('parseSse', () => {
  it('reads events with and without a name', async () => {
    expect(await parse('event: token\ndata: {"a":1}\n\ndata: x\n\n')).toEqual([
      { event: 'token', data: '{"a":1}' },
      { event: 'message', data: 'x' },
    ]);
  });

  it.each(['\n', '\r', '\r\n'])('accepts the line end %j', async (end) => {
    const text = ['event: a', 'data: 1', 'data: 2', '', 'data: 3', '', ''].join(end);
    const expected = [
      { event: 'a', data: '1\n2' },
      { event: 'message', data: '3' },
    ];
    expect(await parse(text)).toEqual(expected);
    expect(await parse(text, 1)).toEqual(expected);
  });

  it('puts characters back together that were cut between chunks', async () => {
    expect(await parse('data: Zürich 😀\n\n', 1)).toEqual([
      { event: 'message', data: 'Zürich 😀' },
    ]);
  });

  it('skips comments, unknown fields and events without data', async () => {
    expect(await parse(': ping\n\nid: 7\nretry: 1\nevent: x\n\ndata\n\n')).toEqual([
      { event: 'message', data: '' },
    ]);
  });

  it('strips one space after the colon and no more', async () => {
    expect(await parse('data:  two\n\ndata:none\n\n')).toEqual([
      { event: 'message', data: ' two' },
      { event: 'message', data: 'none' },
    ]);
  });

  it('drops an event the stream ends within', async () => {
    expect(await parse('data: 1\n\ndata: 2')).toEqual([{ event: 'message', data: '1' }]);
    expect(await parse('data: 1\n\ndata: 2\n')).toEqual([{ event: 'message', data: '1' }]);
  });

  it('refuses an event that never ends', async () => {
    async function* endless(): AsyncGenerator<Uint8Array> {
      const piece = Buffer.alloc(2 ** 20, 'x');
      for (let i = 0; i < 100; i++) yield piece;
    }
    await expect(parseSse(endless()).next()).rejects.toMatchObject({ code: 'internal' });
  });
});
