import { createHash } from 'node:crypto';
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { decodeHalfInto, encodeHalf } from '../../src/core/half.ts';
import type { TensorRef } from '../../src/model/checkpoint.ts';
import { embeddedFolder, embeddedModels } from '../../src/model/embedded.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import { tinyGgufMetadata, writeGgufFile } from '../support/gguf-file.ts';
import {
  temporaryFolder,
  tinyConfig,
  tinyFolder,
  tinyTensors,
  withBytes,
} from '../support/tiny-checkpoint.ts';

const cacheFolder = temporaryFolder();
const folders = [cacheFolder];

afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true });
});

function folderOf(config: object = tinyConfig, tensors = tinyTensors(tinyConfig)): string {
  const folder = tinyFolder(tensors, config);
  folders.push(folder);
  return folder;
}

function readValues({ file, offsetBytes, sizeBytes }: TensorRef, bytes: Buffer): Float32Array {
  expect(file).toMatch(/\.safetensors$/);
  return new Float32Array(bytes.buffer, bytes.byteOffset + offsetBytes, sizeBytes / 4);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Uint16Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

function halfOf(values: Float32Array): Uint16Array {
  const half = new Uint16Array(values.length);
  encodeHalf(values, half);
  return half;
}

describe('the embedded model', () => {
  it('reader has exactly the f16 values that the golden data was made with', async () => {
    const checkpoint = await loadCheckpoint({ model: 'reader', cacheFolder });
    const golden = new URL('../fixtures/golden/reader/weights-f16-sha256.json', import.meta.url);
    const expected: unknown = JSON.parse(readFileSync(golden, 'utf8'));
    const tensors = [...checkpoint.tensors.values()];
    const bytes = readFileSync(defined(tensors[0], 'tensor').file);
    const digests = tensors.map((ref): [string, string] => {
      const values = readValues(ref, bytes);
      const half = halfOf(values);
      // Nothing but f16 values may be there, or the digest of what they round to would hide it.
      const widened = new Float32Array(values.length);
      decodeHalfInto(half, widened);
      expect(Buffer.compare(bytesOf(widened), bytesOf(values))).toBe(0);
      return [ref.name, createHash('sha256').update(half).digest('hex')];
    });
    expect(Object.fromEntries(digests)).toEqual(expected);
  });

  it('reader-mini has the values of its file', async () => {
    const checkpoint = await loadCheckpoint({ model: 'reader-mini', cacheFolder });
    const source = readFileSync(join(embeddedFolder('reader-mini'), 'model.safetensors'));
    const headerBytes = Number(source.readBigUInt64LE(0));
    const header = JSON.parse(source.toString('utf8', 8, 8 + headerBytes)) as Record<
      string,
      { data_offsets: [number, number] }
    >;
    const converted = readFileSync(defined([...checkpoint.tensors.values()][0], 'tensor').file);
    for (const [name, ref] of checkpoint.tensors) {
      const [start, end] = defined(header[name], name).data_offsets;
      const half = source.subarray(8 + headerBytes + start, 8 + headerBytes + end);
      const values = readValues(ref, converted);
      expect(Buffer.compare(bytesOf(halfOf(values)), half)).toBe(0);
    }
  });

  it.each([...embeddedModels])('%s says what it is', async (model, description) => {
    const checkpoint = await loadCheckpoint({ model, cacheFolder });
    expect(checkpoint).toMatchObject({ id: model, description });
    expect(checkpoint.fingerprint).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(checkpoint.config).toMatchObject({ contextLength: 8192, endTokenIds: [2] });
  });
});

describe('a model', () => {
  it('may be a folder, named for its last part', async () => {
    const folder = folderOf();
    const checkpoint = await loadCheckpoint({ model: `${folder}/`, cacheFolder });
    expect(checkpoint.id).toBe(basename(folder));
    expect(checkpoint.description).toBe('llama, 2 layers of 8, 256 tokens');
  });

  it('may be a GGUF file, or a folder with one, and is the same either way', async () => {
    const folder = folderOf();
    rmSync(join(folder, 'model.safetensors'));
    const file = join(folder, 'some-model.gguf');
    cpSync(join(embeddedFolder('reader'), 'reader-135m.Q4_1.gguf'), file);
    const [byFile, byFolder] = await Promise.all([
      loadCheckpoint({ model: file, cacheFolder }),
      loadCheckpoint({ model: folder, cacheFolder }),
    ]);
    expect(byFile.id).toBe('some-model');
    expect(byFolder.id).toBe(basename(folder));
    expect(byFile.fingerprint).toBe(byFolder.fingerprint);
  });

  it.each([
    ['a name of nothing', () => 'no-such-model'],
    ['a path of nothing', () => './no/such/folder'],
    ['no name', () => ''],
    ['a folder without weights', () => cacheFolder],
    ['a file of another kind', () => join(embeddedFolder('reader'), 'LICENSE')],
  ])('that is %s is refused with what is accepted', async (_, model) => {
    await expect(loadCheckpoint({ model: model(), cacheFolder })).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(/reader, reader-mini.*folder.*\.gguf.*owner\/name/) as string,
    });
  });

  it('without four-bit blocks is refused if steps must decode by them', async () => {
    const options = { model: 'reader-mini', cacheFolder };
    await expect(loadCheckpoint({ ...options, decodeWeights: 'q4' })).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/Q4_1.*reader-mini.*auto or f32/) as string,
    });
    const checkpoint = await loadCheckpoint({ ...options, decodeWeights: 'auto' });
    expect(checkpoint.fourBit).toBeUndefined();
  });

  it('in a folder with two GGUF files is refused', async () => {
    const folder = join(folderOf(), 'two');
    mkdirSync(folder);
    for (const name of ['a.gguf', 'b.gguf'])
      writeGgufFile(join(folder, name), tinyGgufMetadata(), []);
    await expect(loadCheckpoint({ model: folder, cacheFolder })).rejects.toThrow(
      /exactly one GGUF/,
    );
  });

  it('with token ids that its embeddings do not have is refused', async () => {
    const config = { ...tinyConfig, eos_token_id: 8192 };
    await expect(loadCheckpoint({ model: folderOf(config), cacheFolder })).rejects.toThrow(
      /below the vocabulary size 8192 but got 8192/,
    );
  });
});

describe('a fingerprint', () => {
  const fingerprint = async (folder: string): Promise<string> =>
    (await loadCheckpoint({ model: folder, cacheFolder })).fingerprint;

  function editJson(folder: string, name: string, change: (json: never) => object): string {
    const file = join(folder, name);
    writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, 'utf8')) as never)));
    return folder;
  }

  it('does not depend on the folder, its name or keys that change nothing', async () => {
    const plain = await fingerprint(folderOf());
    expect(await fingerprint(folderOf())).toBe(plain);
    expect(await fingerprint(folderOf({ ...tinyConfig, use_cache: false }))).toBe(plain);
  });

  it('differs for another config, other weights, another tokenizer or another template', async () => {
    const changedWeights = withBytes(
      tinyTensors(tinyConfig),
      'model.norm.weight',
      new Uint8Array(32),
    );
    const all = await Promise.all([
      fingerprint(folderOf()),
      fingerprint(folderOf({ ...tinyConfig, rms_norm_eps: 1e-6 })),
      fingerprint(folderOf(tinyConfig, changedWeights)),
      fingerprint(
        editJson(folderOf(), 'tokenizer.json', (json: { model: object }) => ({
          ...json,
          model: { ...json.model, ignore_merges: true },
        })),
      ),
      fingerprint(
        editJson(folderOf(), 'tokenizer_config.json', (json: { chat_template: string }) => ({
          ...json,
          chat_template: json.chat_template.replace('helpful', 'careful'),
        })),
      ),
    ]);
    expect(new Set(all).size).toBe(all.length);
  });
});
