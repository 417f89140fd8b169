import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import type { TensorRef } from '../../src/model/checkpoint.ts';
import { weightsDigest } from '../../src/model/fingerprint.ts';
import { readHfFolder } from '../../src/model/hf-folder.ts';
import type { ModelLog } from '../../src/model/log.ts';
import { readSafetensorsHeader } from '../../src/model/safetensors.ts';
import { openWeights } from '../../src/model/weights.ts';
import {
  encodeFloats,
  temporaryFolder,
  tinyConfig,
  tinyFolder,
  tinyTensors,
  tinyValues,
  withBytes,
} from '../support/tiny-checkpoint.ts';
import type { StoredTensor } from '../support/tiny-checkpoint.ts';

const folders: string[] = [];
let cacheFolder: string;

beforeEach(() => {
  cacheFolder = temporaryFolder();
  folders.push(cacheFolder);
});

afterEach(() => {
  for (const folder of folders.splice(0)) rmSync(folder, { recursive: true });
});

function createLog(): ModelLog {
  return { info: vi.fn(), warn: vi.fn() };
}

interface Opened {
  readonly tensors: ReadonlyMap<string, TensorRef>;
  readonly log: ModelLog;
}

async function openFolder(folder: string): Promise<Opened> {
  const source = await readHfFolder(folder);
  const digest = await weightsDigest(source.weightFiles);
  const log = createLog();
  return { log, tensors: await openWeights({ tensors: source.tensors, digest, cacheFolder, log }) };
}

function folderOf(tensors: readonly StoredTensor[]): string {
  const folder = tinyFolder(tensors);
  folders.push(folder);
  return folder;
}

function valuesOf(ref: TensorRef | undefined): readonly number[] {
  const { file, offsetBytes, sizeBytes } = defined(ref, 'tensor');
  const bytes = readFileSync(file).subarray(offsetBytes, offsetBytes + sizeBytes);
  return [...new Float32Array(Uint8Array.from(bytes).buffer)];
}

function expectTinyValues(tensors: ReadonlyMap<string, TensorRef>): void {
  for (const [i, { name, shape }] of tinyTensors(tinyConfig).entries()) {
    const length = shape.reduce((product, size) => product * size, 1);
    expect(valuesOf(tensors.get(name))).toEqual(tinyValues(length, i));
  }
}

const weightsFolder = (): string => join(cacheFolder, 'weights');

function convertedFile(): string {
  const [name] = readdirSync(weightsFolder());
  return join(weightsFolder(), defined(name, 'converted file'));
}

function flipBit(bytes: Buffer, at: number): Buffer {
  bytes.writeUInt8(bytes.readUInt8(at) ^ 1, at);
  return bytes;
}

describe('weights', () => {
  it('of float32 are used where they lie', async () => {
    const folder = folderOf(tinyTensors(tinyConfig));
    const { tensors } = await openFolder(folder);
    expectTinyValues(tensors);
    expect(new Set(Array.from(tensors.values(), ({ file }) => file))).toEqual(
      new Set([join(folder, 'model.safetensors')]),
    );
    expect(existsSync(weightsFolder())).toBe(false);
  });

  it.each(['F16', 'BF16'] as const)('of %s are widened exactly, once', async (type) => {
    const folder = folderOf(tinyTensors(tinyConfig, type));
    const once = await openFolder(folder);
    expectTinyValues(once.tensors);
    expect(once.log.info).toHaveBeenCalledOnce();
    const again = await openFolder(folder);
    expect(again.tensors).toEqual(once.tensors);
    expect(again.log.info).not.toHaveBeenCalled();
  });

  it('of several types are converted together', async () => {
    const [embedding, ...rest] = tinyTensors(tinyConfig, 'F16');
    const exact = tinyTensors(tinyConfig).slice(0, 1);
    expect(embedding?.name).toBe(exact[0]?.name);
    expectTinyValues((await openFolder(folderOf([...exact, ...rest]))).tensors);
  });

  it('are converted into a safetensors file with aligned data', async () => {
    await openFolder(folderOf(tinyTensors(tinyConfig, 'F16')));
    const { entries } = await readSafetensorsHeader(convertedFile());
    expect(entries).toHaveLength(20);
    expect(defined(entries[0], 'entry').offsetBytes % 64).toBe(0);
  });

  it.each([
    ['a byte of data changed', (bytes: Buffer) => flipBit(bytes, bytes.length - 1)],
    ['a byte of the header changed', (bytes: Buffer) => flipBit(bytes, 20)],
    ['its end missing', (bytes: Buffer) => bytes.subarray(0, -4)],
    ['nothing in it', () => Buffer.alloc(0)],
  ])('are converted again if the converted file has %s', async (_, damage) => {
    const folder = folderOf(tinyTensors(tinyConfig, 'F16'));
    await openFolder(folder);
    const file = convertedFile();
    const intact = readFileSync(file);
    writeFileSync(file, damage(Buffer.from(intact)));
    const { log, tensors } = await openFolder(folder);
    expect(log.warn).toHaveBeenCalledOnce();
    expect(readFileSync(file).equals(intact)).toBe(true);
    expectTinyValues(tensors);
  });

  it('may be converted by several at once', async () => {
    const folder = folderOf(tinyTensors(tinyConfig, 'F16'));
    const all = await Promise.all([openFolder(folder), openFolder(folder), openFolder(folder)]);
    for (const { tensors } of all) expectTinyValues(tensors);
    expect(readdirSync(weightsFolder())).toHaveLength(1);
    expect((await openFolder(folder)).log.info).not.toHaveBeenCalled();
  });

  it('are converted anew when the source changes', async () => {
    await openFolder(folderOf(tinyTensors(tinyConfig, 'F16')));
    await openFolder(folderOf(tinyTensors(tinyConfig, 'BF16')));
    expect(readdirSync(weightsFolder())).toHaveLength(2);
  });

  it.each([Infinity, NaN])('with %d among them are refused and leave no file', async (value) => {
    const bytes = encodeFloats([1, 1, 1, value, 1, 1, 1, 1], 'F16');
    const tensors = withBytes(tinyTensors(tinyConfig, 'F16'), 'model.norm.weight', bytes);
    await expect(openFolder(folderOf(tensors))).rejects.toMatchObject({
      code: 'invalid_argument',
      message: expect.stringMatching(/finite values for model\.norm\.weight/) as string,
    });
    expect(readdirSync(weightsFolder())).toEqual([]);
  });

  it('sweep away what a process that died hours ago left, and nothing younger', async () => {
    mkdirSync(weightsFolder());
    const old = join(weightsFolder(), 'old.tmp');
    const young = join(weightsFolder(), 'young.tmp');
    writeFileSync(old, 'x');
    writeFileSync(young, 'x');
    const hoursAgo = new Date(Date.now() - 2 * 60 * 60 * 1000);
    utimesSync(old, hoursAgo, hoursAgo);
    await openFolder(folderOf(tinyTensors(tinyConfig, 'F16')));
    expect(existsSync(old)).toBe(false);
    expect(existsSync(young)).toBe(true);
  });
});
