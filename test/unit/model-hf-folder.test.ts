import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { readHfFolder } from '../../src/model/hf-folder.ts';
import {
  encodeFloats,
  temporaryFolder,
  tinyConfig,
  tinyFolder,
  tinyTensors,
  writeSafetensorsFile,
  writeTinyJson,
} from '../support/tiny-checkpoint.ts';
import type { StoredTensor } from '../support/tiny-checkpoint.ts';

const folders: string[] = [];

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function folderOf(tensors: readonly StoredTensor[], config: object = tinyConfig): string {
  const folder = tinyFolder(tensors, config);
  folders.push(folder);
  return folder;
}

const first = 'model-00001-of-00002.safetensors';
const second = 'model-00002-of-00002.safetensors';

/** A checkpoint in two files, its index changed by `change`. */
function shardedFolder(
  change: (weightMap: Record<string, string>) => object = (map) => map,
): string {
  const folder = temporaryFolder();
  folders.push(folder);
  writeTinyJson(folder);
  const tensors = tinyTensors(tinyConfig);
  const parts = [tensors.slice(0, 5), tensors.slice(5)] as const;
  writeSafetensorsFile(join(folder, first), parts[0]);
  writeSafetensorsFile(join(folder, second), parts[1]);
  const names = (part: readonly StoredTensor[], file: string): [string, string][] =>
    part.map(({ name }) => [name, file]);
  const map = Object.fromEntries([...names(parts[0], first), ...names(parts[1], second)]);
  const index = { metadata: { total_size: 1 }, weight_map: change(map) };
  writeFileSync(join(folder, 'model.safetensors.index.json'), JSON.stringify(index));
  return folder;
}

function extra(name: string, shape: readonly number[]): StoredTensor {
  const length = shape.reduce((product, size) => product * size, 1);
  return { name, dtype: 'F32', shape, bytes: encodeFloats(Array(length).fill(0), 'F32') };
}

describe('a Hugging Face folder', () => {
  it.each(['F32', 'F16', 'BF16'] as const)(
    'of %s tensors lists all a graph needs',
    async (type) => {
      const source = await readHfFolder(folderOf(tinyTensors(tinyConfig, type)));
      expect(source.tensors).toHaveLength(2 * 9 + 2);
      expect(new Set(source.tensors.map(({ encoding }) => encoding))).toEqual(new Set([type]));
    },
  );

  it('with biases and a head of its own has their tensors', async () => {
    const config = {
      ...tinyConfig,
      attention_bias: true,
      mlp_bias: true,
      tie_word_embeddings: false,
    };
    const source = await readHfFolder(folderOf(tinyTensors(config), config));
    expect(source.tensors).toHaveLength(2 * (9 + 7) + 3);
    expect(source.tensors.map(({ name }) => name)).toEqual(
      expect.arrayContaining(['model.layers.1.self_attn.o_proj.bias', 'lm_head.weight']),
    );
  });

  it('leaves out tensors that repeat what is known', async () => {
    const tensors = [
      ...tinyTensors(tinyConfig),
      extra('model.layers.0.self_attn.rotary_emb.inv_freq', [2]),
      extra('lm_head.weight', [8192, 8]),
    ];
    expect((await readHfFolder(folderOf(tensors))).tensors).toHaveLength(2 * 9 + 2);
  });

  it('of several files is read by its index', async () => {
    const source = await readHfFolder(shardedFolder());
    expect(source.tensors).toHaveLength(2 * 9 + 2);
    expect(source.weightFiles.map((file) => file.slice(-first.length))).toEqual([first, second]);
  });

  it.each([
    ['a file above the folder', '../model.safetensors'],
    ['an absolute path', '/etc/model.safetensors'],
    ['a path with backslashes', '..\\model.safetensors'],
    ['a file of another kind', 'config.json'],
  ])('whose index names %s is refused', async (_, file) => {
    const folder = shardedFolder((map) => ({ ...map, 'model.norm.weight': file }));
    await expect(readHfFolder(folder)).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(/plain name/) as string,
    });
  });

  it.each([
    [
      'names a tensor that is nowhere',
      (map: Record<string, string>) => ({ ...map, 'model.more.weight': first }),
      /model\.more\.weight in model-00001.*got none/,
    ],
    [
      'names the wrong file for a tensor',
      (map: Record<string, string>) => ({ ...map, 'model.norm.weight': first }),
      /model\.norm\.weight once, in model-00001/,
    ],
    [
      'names a file that is not there',
      (map: Record<string, string>) => ({ ...map, 'model.more.weight': 'other.safetensors' }),
      /other\.safetensors but got none/,
    ],
  ])('whose index %s is refused', async (_, change, message) => {
    await expect(readHfFolder(shardedFolder(change))).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(message) as string,
    });
  });

  it('with one tensor in two files is refused', async () => {
    const folder = shardedFolder();
    writeSafetensorsFile(join(folder, first), tinyTensors(tinyConfig));
    await expect(readHfFolder(folder)).rejects.toThrow(/once, in model-00002/);
  });

  it('with a tensor missing or of another shape is refused', async () => {
    const tensors = tinyTensors(tinyConfig);
    await expect(readHfFolder(folderOf(tensors.slice(1)))).rejects.toThrow(
      /model\.embed_tokens\.weight \[8192, 8\].*got none/,
    );
    await expect(
      readHfFolder(folderOf(tensors, { ...tinyConfig, intermediate_size: 24 })),
    ).rejects.toThrow(/\[24, 8\].*got \[16, 8\]/);
  });

  it('with tensors that its config does not explain is refused', async () => {
    const tensors = [
      ...tinyTensors(tinyConfig),
      extra('model.layers.0.self_attn.q_proj.bias', [8]),
    ];
    await expect(readHfFolder(folderOf(tensors))).rejects.toMatchObject({ code: 'unsupported' });
  });

  it('with tensors of a type that is not decoded is refused', async () => {
    const [embedding, ...rest] = tinyTensors(tinyConfig);
    const bytes = new Uint8Array(8192 * 8);
    const quantised = { ...embedding, name: 'model.embed_tokens.weight', dtype: 'F8_E4M3' };
    const folder = folderOf([{ shape: [8192, 8], ...quantised, bytes }, ...rest]);
    await expect(readHfFolder(folder)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/F32, F16, BF16.*F8_E4M3/) as string,
    });
  });

  it.each(['config.json', 'tokenizer.json'])('without %s is refused', async (name) => {
    const folder = folderOf(tinyTensors(tinyConfig));
    rmSync(join(folder, name));
    await expect(readHfFolder(folder)).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringContaining(name) as string,
    });
  });

  it('without a chat template is refused, and with one in a file of its own taken', async () => {
    const folder = folderOf(tinyTensors(tinyConfig));
    rmSync(join(folder, 'tokenizer_config.json'));
    await expect(readHfFolder(folder)).rejects.toThrow(/chat template/);
    writeFileSync(join(folder, 'chat_template.jinja'), '{{ messages }}');
    expect((await readHfFolder(folder)).template.text).toBe('{{ messages }}');
  });

  it('with a file that is no JSON is refused', async () => {
    const folder = folderOf(tinyTensors(tinyConfig));
    writeFileSync(join(folder, 'config.json'), '{');
    await expect(readHfFolder(folder)).rejects.toThrow(/JSON in .*config\.json/);
  });
});
