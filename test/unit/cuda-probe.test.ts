import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { cudaLibraries } from '../../src/runtime/cuda/libraries.ts';
import { askNative, readAnswer, type ProbeAnswer } from '../../src/runtime/cuda/probe-native.ts';
import { deviceCheck, probeCuda } from '../../src/runtime/cuda/probe.ts';
import { findProvider, providerFileNames } from '../../src/runtime/cuda/provider-files.ts';
import { h100, probeOf, soundAnswer, sources } from '../support/cuda-probe.ts';

/** The checks that fail, as `name: found → fix`. */
function failures(different: Parameters<typeof probeOf>[0]): readonly string[] {
  return probeOf(different)
    .checks.filter(({ ok }) => !ok)
    .map(({ name, found, fix }) => `${name}: ${found} → ${fix}`);
}

function answering(
  different: Partial<ProbeAnswer['driver']>,
  failed: ProbeAnswer['failures'] = {},
) {
  const driver = { ...soundAnswer.driver, ...different };
  return { askNative: () => ({ driver, failures: failed }) };
}

describe('probing for CUDA', () => {
  it('passes every check on a machine that has everything', () => {
    const { checks, devices } = probeOf();
    expect(checks.filter(({ ok, fix }) => !ok || fix !== undefined)).toEqual([]);
    expect(checks.map(({ name }) => name)).toEqual([
      'platform',
      'provider',
      'kernels',
      'driver',
      ...cudaLibraries.map(({ file }) => file),
      'loading',
    ]);
    expect(devices).toEqual([h100]);
  });

  it('looks no further where CUDA cannot be', () => {
    const { checks, devices } = probeOf({ platform: 'darwin', arch: 'arm64' });
    expect(checks).toEqual([
      {
        name: 'platform',
        ok: false,
        found: 'darwin arm64',
        fix: expect.stringContaining('--device cpu') as string,
      },
    ]);
    expect(devices).toEqual([]);
  });

  it.each([
    [
      'a provider that is not there',
      { findProvider: () => ({ folder: '/ort', missing: ['libx.so'], matches: false }) },
      /^provider: no libx\.so in \/ort → .*npm run setup:cuda/,
    ],
    [
      'a provider of another version',
      { findProvider: () => ({ folder: '/ort', missing: [], matches: false }) },
      /^provider: .*not for ONNX Runtime 1\.29\.0 → .*npm run setup:cuda/,
    ],
    ['no kernels', { findKernels: () => undefined }, /^kernels: not built → .*build:native/],
    [
      'kernels of other sources',
      { kernelsAreOld: () => true },
      /^kernels: .*built of other sources than these → .*build:native/,
    ],
    [
      'no driver',
      answering({ version: undefined, error: 'libcuda.so.1: no such file' }),
      /^driver: libcuda\.so\.1: no such file → .*driver 580.*--gpus all/,
    ],
    ['an old driver', answering({ version: 12_080 }), /^driver: for CUDA 12\.8, older.* → .*580/],
    [
      'a driver that fails',
      answering({ error: 'cuInit: unknown error (999)', devices: [] }),
      /^driver: for CUDA 13\.0; cuInit: unknown error \(999\) → .*nvidia-smi/,
    ],
    [
      'a library that is not found',
      answering({}, { 'libcudnn.so.9': 'cannot open' }),
      /^libcudnn\.so\.9: cannot open → Install cuDNN 9.*libcudnn9-cuda-13.*LD_LIBRARY_PATH/,
    ],
    [
      'a provider that cannot be loaded',
      answering({}, { provider: 'undefined symbol' }),
      /^loading: undefined symbol → .*setup:cuda/,
    ],
  ])('finds %s, and says how to mend it', (_, different, expected) => {
    const found = failures(different);
    expect(found).toHaveLength(1);
    expect(found[0]).toMatch(expected);
  });

  it('has no provider loaded that is not whole', () => {
    const asked: boolean[] = [];
    probeOf({
      findProvider: () => ({ folder: '/ort', missing: ['x'], matches: false }),
      askNative: ({ provider }) => {
        asked.push(provider);
        return soundAnswer;
      },
    });
    expect(asked).toEqual([false]);
  });

  it('starts no process for a machine that lacks a file, if it may stop early', () => {
    const lacking = sources({
      findKernels: () => undefined,
      askNative: () => {
        throw new Error('asked');
      },
    });
    const { checks } = probeCuda({ stopEarly: true, sources: lacking });
    expect(checks.at(-1)).toMatchObject({ name: 'kernels', ok: false });
  });

  it('asks the real loader and driver without failing itself', () => {
    const none = 'libreadonce-none.so.1';
    const { driver, failures } = askNative({ libraries: [none], provider: false });
    expect(failures[none]).toMatch(/\S/);
    expect(driver.error === undefined).toBe(driver.devices.length > 0);
  });
});

describe('the device of an index', () => {
  it('is described', () => {
    expect(deviceCheck(probeOf(), 0)).toEqual({
      name: 'device',
      ok: true,
      found: 'cuda:0 NVIDIA H100 80GB HBM3, compute capability 9.0, 85.0 GB',
    });
  });

  it('must be there', () => {
    expect(deviceCheck(probeOf(), 1)).toMatchObject({
      ok: false,
      found: 'no device 1; there are 1',
    });
    expect(deviceCheck({ checks: [], devices: [] }, 0).fix).toContain('nvidia-smi');
  });

  it('must be of compute capability 8.0 or above', () => {
    const old = { ...h100, computeCapability: '7.5' };
    expect(deviceCheck({ checks: [], devices: [old] }, 0)).toMatchObject({ ok: false });
    const later = { ...h100, computeCapability: '12.0' };
    expect(deviceCheck({ checks: [], devices: [later] }, 0)).toMatchObject({ ok: true });
  });
});

describe('what a process that ended early said', () => {
  const question = { libraries: ['a', 'b', 'c'], provider: true };
  const driver = { version: 13_000, devices: [] };

  it('blames what it did not get to first', () => {
    const said = [{ about: 'driver', driver }, { about: 'a' }, { about: 'b', error: 'gone' }];
    const lines = `${said.map((line) => JSON.stringify(line)).join('\n')}\n{"about":"c`;
    const answer = readAnswer(question, { lines, end: 'it ended with SIGSEGV' });
    expect(answer.driver).toEqual(driver);
    expect(answer.failures).toEqual({
      a: undefined,
      b: 'gone',
      c: expect.stringContaining('SIGSEGV') as string,
      provider: expect.stringContaining('not tried') as string,
    });
  });

  it('blames the driver if it said nothing', () => {
    const answer = readAnswer(question, { lines: '', end: 'it ended with SIGILL' });
    expect(answer.driver).toMatchObject({ error: expect.stringContaining('SIGILL') as string });
    expect(answer.driver.version).toBeUndefined();
    expect(Object.values(answer.failures).every((failure) => failure?.includes('not tried'))).toBe(
      true,
    );
  });
});

describe('the provider in a folder', () => {
  let folder: string;
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'readonce-provider-'));
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  function write(name: keyof typeof providerFileNames, content: string | Buffer): void {
    writeFileSync(join(folder, providerFileNames[name]), content);
  }

  it('is two files', () => {
    write('cuda', '\x001.29.0\x00');
    expect(findProvider(folder, '1.29.0')).toEqual({
      folder,
      missing: [providerFileNames.shared],
      matches: false,
    });
    write('shared', '');
    expect(findProvider(folder, '1.29.0')).toEqual({ folder, missing: [], matches: true });
  });

  it.each(['\x001.29.1\x00', '\x001.29.0-rc\x00', 'x1.29.0\x00', ''])(
    'is of another version with the text %j',
    (content) => {
      write('shared', '');
      write('cuda', content);
      expect(findProvider(folder, '1.29.0').matches).toBe(false);
    },
  );

  it('is recognised wherever in the file the version lies', () => {
    write('shared', '');
    const text = Buffer.from('\x001.29.0\x00');
    const chunk = 4 * 2 ** 20;
    // Around every place where one read may end and the next begin.
    for (const offset of [0, 1, chunk - 9, chunk - 1, chunk, chunk + 1, chunk + 7, chunk + 8]) {
      const file = Buffer.alloc(chunk * 2, 0xff);
      text.copy(file, offset);
      write('cuda', file);
      expect([offset, findProvider(folder, '1.29.0').matches]).toEqual([offset, true]);
    }
  });
});

it('names a package of the system and a wheel for every library', () => {
  for (const library of cudaLibraries) {
    const { fix } = defined(
      probeOf(answering({}, { [library.file]: 'gone' })).checks.find(
        ({ name }) => name === library.file,
      ),
      library.file,
    );
    expect(fix).toContain(library.systemPackage);
    expect(fix).toContain(library.wheel);
  }
});
