import { createHash } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { downloadCheckpoint, isHubId } from '../../src/model/hub.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import {
  temporaryFolder,
  tinyConfig,
  tinyFolder,
  tinyTensors,
} from '../support/tiny-checkpoint.ts';

const id = 'someone/some-model';
const commit = 'c'.repeat(40);

let cacheFolder: string;
let origin: string;

beforeEach(() => {
  cacheFolder = temporaryFolder();
  origin = tinyFolder(tinyTensors(tinyConfig));
});

afterEach(() => {
  for (const folder of [cacheFolder, origin]) rmSync(folder, { recursive: true });
});

function json(value: unknown, status = 200): Response {
  return new Response(JSON.stringify(value), {
    status,
    headers: { 'content-type': 'application/json' },
  });
}

function listing(files: ReadonlyMap<string, Buffer>): Response {
  const entries = Array.from(files, ([path, bytes]) => ({
    type: 'file',
    path,
    size: bytes.byteLength,
    oid: 'o',
    ...(path.endsWith('.safetensors')
      ? { lfs: { oid: createHash('sha256').update(bytes).digest('hex'), size: bytes.byteLength } }
      : {}),
  }));
  return json(entries);
}

function contents(bytes: Buffer, range: string | null): Response {
  const [, start = '0', end = ''] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? [];
  const last = end === '' ? bytes.byteLength - 1 : Math.min(Number(end), bytes.byteLength - 1);
  const piece = Uint8Array.from(bytes.subarray(Number(start), last + 1));
  return new Response(piece, {
    status: range === null ? 200 : 206,
    headers: { 'content-range': `bytes ${start}-${last}/${bytes.byteLength}`, etag: '"e"' },
  });
}

/** A hub with one model of these files; `asked` records the paths asked for. */
function createHub(files: ReadonlyMap<string, Buffer>): { fetch: typeof fetch; asked: string[] } {
  const asked: string[] = [];
  const answer = (url: URL, range: string | null): Response => {
    asked.push(url.pathname);
    if (url.pathname === `/api/models/${id}/revision/HEAD`) return json({ id, sha: commit });
    if (url.pathname === `/api/models/${id}/tree/${commit}`) return listing(files);
    const file = files.get(url.pathname.replace(`/${id}/resolve/${commit}/`, ''));
    return file === undefined
      ? json({ error: 'Repository not found' }, 404)
      : contents(file, range);
  };
  return {
    asked,
    fetch: async (input, init) => {
      const request = new Request(input, init);
      return Promise.resolve(answer(new URL(request.url), request.headers.get('range')));
    },
  };
}

function filesOfOrigin(): Map<string, Buffer> {
  return new Map(readdirSync(origin).map((name) => [name, readFileSync(join(origin, name))]));
}

const unreachable: typeof fetch = async () => Promise.reject(new Error('no network'));

describe('a model of the hub', () => {
  it('is downloaded once, checkpoint files only, and then loads like any folder', async () => {
    const files = filesOfOrigin();
    files.set('pytorch_model.bin', Buffer.from('x')).set('README.md', Buffer.from('x'));
    const hub = createHub(files);
    const folder = await downloadCheckpoint({ id, cacheFolder, log: undefined, fetch: hub.fetch });
    expect(readdirSync(folder).sort()).toEqual([...filesOfOrigin().keys()].sort());
    expect(hub.asked.some((path) => path.includes('pytorch'))).toBe(false);
    for (const [name, bytes] of filesOfOrigin()) {
      expect(readFileSync(join(folder, name)).equals(bytes)).toBe(true);
    }
    const options = { id, cacheFolder, log: undefined, fetch: unreachable };
    expect(await downloadCheckpoint(options)).toBe(folder);
    expect((await loadCheckpoint({ model: id, cacheFolder })).id).toBe('some-model');
  });

  it('may be downloaded by two at once', async () => {
    const { fetch } = createHub(filesOfOrigin());
    const options = { id, cacheFolder, log: undefined, fetch };
    const folders = await Promise.all([downloadCheckpoint(options), downloadCheckpoint(options)]);
    expect(new Set(folders).size).toBe(1);
    expect(readdirSync(join(cacheFolder, 'hub', 'someone'))).toEqual(['some-model']);
  });

  it('whose weights come damaged is refused and leaves nothing', async () => {
    const hub = createHub(filesOfOrigin());
    const damaging: typeof fetch = async (input, init) => {
      const response = await hub.fetch(input, init);
      if (!String(input instanceof Request ? input.url : input).endsWith('.safetensors'))
        return response;
      const bytes = new Uint8Array(await response.arrayBuffer());
      bytes.fill(7, -1);
      return new Response(bytes, response);
    };
    await expect(
      downloadCheckpoint({ id, cacheFolder, log: undefined, fetch: damaging }),
    ).rejects.toMatchObject({ code: 'engine_unavailable' });
    expect(readdirSync(join(cacheFolder, 'hub', 'someone'))).toEqual([]);
  });

  it('without safetensors is refused as unsupported', async () => {
    const { fetch } = createHub(new Map([['config.json', Buffer.from('{}')]]));
    await expect(
      downloadCheckpoint({ id, cacheFolder, log: undefined, fetch }),
    ).rejects.toMatchObject({ code: 'unsupported' });
  });

  it('that does not exist is an invalid argument, and a hub out of reach can be tried again', async () => {
    const { fetch } = createHub(new Map());
    const other = { id: 'someone/else', cacheFolder, log: undefined };
    await expect(downloadCheckpoint({ ...other, fetch })).rejects.toMatchObject({
      code: 'invalid_argument',
    });
    await expect(downloadCheckpoint({ ...other, fetch: unreachable })).rejects.toMatchObject({
      code: 'engine_unavailable',
      retryable: true,
    });
    expect(existsSync(join(cacheFolder, 'hub', 'someone', 'else'))).toBe(false);
  });

  it.each(['../x', 'a/..', 'a/b/c', 'a', '/a', 'a/', './a', 'a/.hidden', 'a b/c'])(
    'is not named by %j',
    (name) => {
      expect(isHubId(name)).toBe(false);
    },
  );
});
