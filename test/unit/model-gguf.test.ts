import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { floatToHalf, halfToFloat } from '../../src/core/half.ts';
import { BpeTokenizer } from '../../src/model/bpe-tokenizer.ts';
import { weightsDigest } from '../../src/model/fingerprint.ts';
import { readGguf } from '../../src/model/gguf.ts';
import { decodeTensor, deinterleaveRows } from '../../src/model/tensor-encodings.ts';
import { openWeights } from '../../src/model/weights.ts';
import { ggufTypes, tinyGgufMetadata, writeGgufFile } from '../support/gguf-file.ts';
import type { GgufTensor, GgufValue } from '../support/gguf-file.ts';
import { encodeFloats, temporaryFolder, tinyValues } from '../support/tiny-checkpoint.ts';

const folder = temporaryFolder();
const file = join(folder, 'tiny.gguf');
const metadata = tinyGgufMetadata();

afterAll(() => {
  rmSync(folder, { recursive: true });
});

function float32(name: string, shape: readonly number[], seed = 0): GgufTensor {
  const length = shape.reduce((product, size) => product * size, 1);
  const bytes = encodeFloats(tinyValues(length, seed), 'F32');
  return { name, shape, type: ggufTypes.F32, bytes };
}

/** All tensors of the metadata's one-layer model. */
const tensors: readonly GgufTensor[] = [
  float32('token_embd.weight', [8192, 32]),
  float32('output_norm.weight', [32]),
  float32('blk.0.attn_norm.weight', [32]),
  float32('blk.0.attn_q.weight', [32, 32]),
  float32('blk.0.attn_k.weight', [16, 32]),
  float32('blk.0.attn_v.weight', [16, 32]),
  float32('blk.0.attn_output.weight', [32, 32]),
  float32('blk.0.ffn_norm.weight', [32]),
  float32('blk.0.ffn_gate.weight', [32, 32]),
  float32('blk.0.ffn_up.weight', [32, 32]),
  float32('blk.0.ffn_down.weight', [32, 32]),
];

function replaced(tensor: GgufTensor): readonly GgufTensor[] {
  return tensors.map((other) => (other.name === tensor.name ? tensor : other));
}

async function read(
  changes: Readonly<Record<string, GgufValue | undefined>> = {},
  stored = tensors,
): ReturnType<typeof readGguf> {
  const all: Record<string, GgufValue | undefined> = { ...metadata, ...changes };
  const kept = Object.entries(all).flatMap(([key, value]) =>
    value === undefined ? [] : [[key, value] as const],
  );
  writeGgufFile(file, Object.fromEntries(kept), stored);
  return readGguf(file);
}

/** Values of a tensor of the file written last, as graphs get them. */
async function valuesOf(name: string, stored: readonly GgufTensor[]): Promise<readonly number[]> {
  const source = await read({}, stored);
  const digest = await weightsDigest(source.weightFiles);
  const options = { tensors: source.tensors, digest, cacheFolder: folder, log: undefined };
  const ref = defined((await openWeights(options)).get(name), name);
  const bytes = readFileSync(ref.file).subarray(ref.offsetBytes, ref.offsetBytes + ref.sizeBytes);
  return [...new Float32Array(Uint8Array.from(bytes).buffer)];
}

const text = (value: string): GgufValue => ({ type: 'string', value });
const number = (value: number): GgufValue => ({ type: 'u32', value });

describe('GGUF metadata', () => {
  it('becomes a model config', async () => {
    expect((await read()).config).toEqual({
      family: 'llama',
      vocabSize: 8192,
      hiddenSize: 32,
      layers: 1,
      queryHeads: 2,
      kvHeads: 1,
      headDim: 16,
      feedForwardSize: 32,
      rmsEpsilon: Math.fround(1e-5),
      contextLength: 256,
      ropeTheta: 10_000,
      ropeScaling: null,
      tiedHead: true,
      attentionBias: false,
      feedForwardBias: false,
      endTokenIds: [2],
    });
  });

  it('may name a second end token', async () => {
    const { config } = await read({ 'tokenizer.ggml.eot_token_id': number(0) });
    expect(config.endTokenIds).toEqual([2, 0]);
  });

  it.each([
    ['another architecture', { 'general.architecture': text('mamba') }, /llama.*mamba/],
    ['rope scaling', { 'llama.rope.scaling.type': text('yarn') }, /yarn/],
    ['partial rotation', { 'llama.rope.dimension_count': number(8) }, /head dim 16.*got 8/],
    ['another tokenizer model', { 'tokenizer.ggml.model': text('llama') }, /gpt2.*llama/],
    ['an unknown splitting', { 'tokenizer.ggml.pre': text('viking') }, /smollm.*viking/],
  ])('with %s is refused as unsupported', async (_, changes, message) => {
    await expect(read(changes)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(message) as string,
    });
  });

  it.each([
    'llama.block_count',
    'llama.attention.layer_norm_rms_epsilon',
    'tokenizer.ggml.tokens',
    'tokenizer.ggml.merges',
    'tokenizer.ggml.eos_token_id',
    'tokenizer.chat_template',
    'general.architecture',
  ])('without %s is refused as an invalid argument', async (key) => {
    await expect(read({ [key]: undefined })).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringContaining(key.replace(/^llama\./, '')) as string,
    });
  });
});

describe('GGUF splitting', () => {
  it.each(['gpt-2', 'smollm', 'llama-bpe'])('%s keeps every byte of a text', async (name) => {
    const { tokenizer } = await read({ 'tokenizer.ggml.pre': text(name) });
    const sample = "It's 12345.678 — DON'T, naïve ½²\r\n\r\n  x\n\t 東京 ";
    const bpe = new BpeTokenizer(tokenizer);
    expect(bpe.decode(bpe.encode(sample))).toBe(sample);
  });

  it('llama-bpe takes a piece that is a token for that token', async () => {
    const { tokenizer } = await read({ 'tokenizer.ggml.pre': text('llama-bpe') });
    const unmerged = { ...tokenizer, merges: [] };
    expect(new BpeTokenizer(unmerged).encode('The')).toEqual(
      Int32Array.of(defined(tokenizer.vocab['The'], 'id')),
    );
  });
});

describe('GGUF tensors', () => {
  it('tell whether the head is tied and the projections have biases', async () => {
    const { config } = await read({}, [
      ...tensors,
      float32('output.weight', [8192, 32]),
      float32('blk.0.attn_q.bias', [32]),
      float32('blk.0.attn_k.bias', [16]),
      float32('blk.0.attn_v.bias', [16]),
      float32('blk.0.attn_output.bias', [32]),
    ]);
    expect(config).toMatchObject({ tiedHead: false, attentionBias: true, feedForwardBias: false });
  });

  it('that the model does not explain, such as rope factors, are refused', async () => {
    await expect(read({}, [...tensors, float32('rope_freqs.weight', [8])])).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringContaining('rope_freqs.weight') as string,
    });
  });

  it('of a type that is not decoded are refused by its name', async () => {
    const stored = replaced({ ...float32('blk.0.ffn_up.weight', [32, 32]), type: ggufTypes.Q4_K });
    await expect(read({}, stored)).rejects.toMatchObject({
      code: 'unsupported',
      message: expect.stringMatching(/Q4_1.*ffn_up.*Q4_K/) as string,
    });
  });

  it('missing, repeated, cut off or of another shape are refused', async () => {
    await expect(read({}, tensors.slice(1))).rejects.toThrow(/model\.embed_tokens\.weight/);
    await expect(read({}, [...tensors, ...tensors.slice(0, 1)])).rejects.toThrow(/once/);
    await expect(read({}, replaced(float32('output_norm.weight', [31])))).rejects.toThrow(/\[32\]/);
    await read();
    truncateSync(file, readFileSync(file).byteLength - 64);
    await expect(readGguf(file)).rejects.toThrow(/inside the file.*incomplete copy/);
  });

  it.each([
    ['nothing', ''],
    ['another format', 'PK\u0003\u0004 and more bytes than a header has'],
    ['a count that is too large', 'GGUF\u0003\0\0\0\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff\u00ff'],
  ])('of a file with %s are refused', async (_, contents) => {
    writeFileSync(file, contents, 'latin1');
    await expect(readGguf(file)).rejects.toMatchObject({ code: 'invalid_argument' });
  });

  it('get the rows of q and k, weights and biases, back from pairs into halves', async () => {
    // Row r of the file holds the value r; a head of 16 rows is pairs (i, i + 8).
    const rows = (name: string, heads: number, columns: number): GgufTensor => {
      const values = Array.from({ length: heads * 16 * columns }, (_, i) =>
        Math.floor(i / columns),
      );
      const shape = columns === 1 ? [heads * 16] : [heads * 16, columns];
      return { name, shape, type: ggufTypes.F32, bytes: encodeFloats(values, 'F32') };
    };
    const biased = [
      ...replaced(rows('blk.0.attn_q.weight', 2, 32)),
      rows('blk.0.attn_q.bias', 2, 1),
      float32('blk.0.attn_k.bias', [16]),
      float32('blk.0.attn_v.bias', [16]),
      float32('blk.0.attn_output.bias', [32]),
    ];
    const halves = [0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15];
    const expected = [...halves, ...halves.map((row) => row + 16)];
    const attention = 'model.layers.0.self_attn';
    expect(await valuesOf(`${attention}.q_proj.bias`, biased)).toEqual(expected);
    const weights = await valuesOf(`${attention}.q_proj.weight`, biased);
    expect(weights.filter((_, i) => i % 32 === 5)).toEqual(expected);
    const untouched = tinyValues(16, 0);
    expect(await valuesOf(`${attention}.v_proj.bias`, biased)).toEqual(untouched);
  });

  it('are rounded to f16, ties to even', async () => {
    const values = tinyValues(32, 0)
      .with(0, 1 + 2 ** -11)
      .with(1, 1 + 3 * 2 ** -11)
      .with(2, 0.1);
    const bytes = encodeFloats(values, 'F32');
    const stored = replaced({
      name: 'output_norm.weight',
      shape: [32],
      type: ggufTypes.F32,
      bytes,
    });
    const rounded = await valuesOf('model.norm.weight', stored);
    expect(rounded.slice(0, 3)).toEqual([1, 1 + 2 ** -9, 0.0999755859375]);
    expect(rounded.slice(3)).toEqual(values.slice(3));
  });
});

describe('GGUF blocks', () => {
  const scale = 0.0123;
  const minimum = -0.0789;
  const half = (value: number): number => halfToFloat(floatToHalf(value));
  const halfBytes = (value: number): Uint8Array => encodeFloats([value], 'F16');
  const nibbles = Uint8Array.from({ length: 16 }, (_, i) => i | (((i * 7) % 16) << 4));
  const quants = [...nibbles]
    .map((pair) => pair & 15)
    .concat([...nibbles].map((pair) => pair >> 4));
  const signed = Int8Array.from({ length: 32 }, (_, i) => i * 8 - 128);

  it.each([
    ['Q4_0', [halfBytes(scale), nibbles], quants.map((q) => half(scale) * (q - 8))],
    [
      'Q4_1',
      [halfBytes(scale), halfBytes(minimum), nibbles],
      quants.map((q) => half(scale) * q + half(minimum)),
    ],
    [
      'Q8_0',
      [halfBytes(scale), new Uint8Array(signed.buffer)],
      [...signed].map((q) => half(scale) * q),
    ],
  ] as const)('of %s decode as their formula says', (encoding, parts, expected) => {
    const block = Buffer.concat(parts);
    const values = new Float32Array(64);
    decodeTensor(encoding, Uint8Array.from(Buffer.concat([block, block])), values);
    for (const [i, value] of values.entries()) {
      // One or two float32 roundings of numbers below 2.
      expect(Math.abs(value - (expected[i % 32] ?? NaN))).toBeLessThan(2 ** -23);
    }
  });

  it('move with their rows', () => {
    const rows = Uint8Array.of(1, 1, 2, 2, 3, 3, 4, 4);
    expect([...deinterleaveRows(rows, { rows: 4, heads: 1 })]).toEqual([1, 1, 3, 3, 2, 2, 4, 4]);
  });
});
