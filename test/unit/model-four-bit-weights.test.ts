import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import type { FourBitLinear, TensorRef } from '../../src/model/checkpoint.ts';
import { openFourBitWeights } from '../../src/model/four-bit-weights.ts';
import type { ModelLog } from '../../src/model/log.ts';
import type { SourceTensor } from '../../src/model/source.ts';
import { openWeights } from '../../src/model/weights.ts';
import { quantizeQ41 } from '../support/four-bit-model.ts';
import { tinyValues } from '../support/tiny-checkpoint.ts';

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-four-bit-'));
});

afterEach(() => {
  rmSync(folder, { recursive: true });
});

const layer = 'model.layers.0.';
const columns = 64;

interface Described {
  readonly linear: string;
  readonly rows: number;
  readonly interleavedHeads?: number;
}

const linears: readonly Described[] = [
  { linear: 'self_attn.q_proj', rows: 8, interleavedHeads: 2 },
  { linear: 'self_attn.k_proj', rows: 4, interleavedHeads: 1 },
  { linear: 'self_attn.v_proj', rows: 4 },
  { linear: 'self_attn.o_proj', rows: 8 },
  { linear: 'mlp.gate_proj', rows: 6 },
  { linear: 'mlp.up_proj', rows: 6 },
  { linear: 'mlp.down_proj', rows: 8 },
];

/** Sources of one layer in files of their own; `plain` ones are float32. */
function sources(plain: readonly string[] = []): readonly SourceTensor[] {
  return linears.map(({ linear, rows, interleavedHeads }, i) => {
    const encoding = plain.includes(linear) ? 'F32' : 'Q4_1';
    const values = Float32Array.from(tinyValues(rows * columns, i));
    const bytes = encoding === 'Q4_1' ? quantizeQ41(values) : new Uint8Array(values.buffer);
    const file = join(folder, linear);
    writeFileSync(file, bytes);
    return {
      name: `${layer}${linear}.weight`,
      shape: [rows, columns],
      file,
      offsetBytes: 0,
      sizeBytes: bytes.byteLength,
      encoding,
      interleavedHeads,
      roundToHalf: false,
    };
  });
}

function createLog(): ModelLog {
  return { info: vi.fn(), warn: vi.fn() };
}

function open(tensors: readonly SourceTensor[], log = createLog()) {
  return openFourBitWeights({ tensors, digest: 'd', cacheFolder: folder, log });
}

function bytesAt({ file, offsetBytes, sizeBytes }: TensorRef): Uint8Array {
  return Uint8Array.from(readFileSync(file).subarray(offsetBytes, offsetBytes + sizeBytes));
}

function floatsAt(ref: TensorRef): Float32Array {
  return new Float32Array(bytesAt(ref).buffer);
}

/** What a product multiplies by, row-major. */
function valuesOf({ codes, scales, shifts }: FourBitLinear): readonly number[] {
  const [scale, shift] = [floatsAt(scales), floatsAt(shifts)];
  return [...bytesAt(codes)].flatMap((pair, i) => {
    const block = Math.floor(i / 16);
    const value = (q: number): number => (scale[block] ?? NaN) * (q - 8) + (shift[block] ?? NaN);
    return [value(pair & 15), value(pair >> 4)];
  });
}

describe('four-bit weights', () => {
  it('are the float32 ones, those that multiply one input joined', async () => {
    const tensors = sources();
    const opened = await open(tensors);
    const float32 = await openWeights({
      tensors,
      digest: 'd',
      cacheFolder: folder,
      log: undefined,
    });
    const qkv = ['q_proj', 'k_proj', 'v_proj'].map((name) => `${layer}self_attn.${name}`);
    const gateUp = ['gate_proj', 'up_proj'].map((name) => `${layer}mlp.${name}`);
    const groups = [qkv, [`${layer}self_attn.o_proj`], gateUp, [`${layer}mlp.down_proj`]];
    expect([...opened.keys()]).toEqual(groups.map((names) => names.join('+')));
    for (const names of groups) {
      const linear = defined(opened.get(names.join('+')), 'a group');
      const expected = names.flatMap((name) =>
        Array.from(floatsAt(defined(float32.get(`${name}.weight`), name))),
      );
      expect(linear.inputs).toBe(columns);
      // Values are at most 1 in size, rounded to float32 a few times.
      for (const [i, value] of valuesOf(linear).entries()) {
        expect(Math.abs(value - (expected[i] ?? NaN))).toBeLessThanOrEqual(2 ** -21);
      }
    }
    expect(opened.get(qkv.join('+'))?.outputs).toEqual([8, 4, 4]);
  });

  it('leave out matrices that are joined with one of another type', async () => {
    const opened = await open(sources(['mlp.up_proj']));
    expect([...opened.keys()].filter((name) => name.includes('mlp'))).toEqual([
      `${layer}mlp.down_proj`,
    ]);
  });

  it('of a model without blocks are none, and make no file', async () => {
    const plain = linears.map(({ linear }) => linear);
    expect((await open(sources(plain))).size).toBe(0);
    expect(existsSync(join(folder, 'weights'))).toBe(false);
  });

  it('are made once, and again when the file is damaged', async () => {
    const tensors = sources();
    const first = await open(tensors);
    const [name] = readdirSync(join(folder, 'weights'));
    expect(name).toBe('d.q4.safetensors');
    const file = join(folder, 'weights', defined(name, 'a file'));
    const intact = readFileSync(file);
    const quiet = createLog();
    expect(await open(tensors, quiet)).toEqual(first);
    expect(quiet.info).not.toHaveBeenCalled();
    const damaged = Buffer.from(intact);
    damaged.writeUInt8(damaged.readUInt8(damaged.length - 1) ^ 1, damaged.length - 1);
    writeFileSync(file, damaged);
    const log = createLog();
    await open(tensors, log);
    expect(log.warn).toHaveBeenCalledOnce();
    expect(readFileSync(file).equals(intact)).toBe(true);
  });
});
