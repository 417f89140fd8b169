import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { CudaDevice } from '../../src/runtime/cuda/device.ts';
import { bytesAt } from '../../src/runtime/cuda/driver-api.ts';
import { defaultKernelsPath, KernelModule } from '../../src/runtime/cuda/kernel-module.ts';
import { LaunchBuffer } from '../../src/runtime/cuda/launch-buffer.ts';
import { fakeDriver, fakeGpu } from '../support/fake-cuda.ts';

/** What cuda.h lays out on 64-bit systems: CUlaunchConfig has 56 bytes, CUlaunchAttribute 72. */
function config(address: bigint): DataView {
  return new DataView(bytesAt(address, 56).slice().buffer);
}

function longAt(address: bigint): bigint {
  return new DataView(bytesAt(address, 8).slice().buffer).getBigUint64(0, true);
}

describe('a launch', () => {
  it('is laid out as the driver reads it', () => {
    const buffer = new LaunchBuffer();
    buffer.encode(
      {
        stream: 0x1122334455667788n,
        grid: [7, 6, 5],
        threads: 256,
        sharedBytes: 98304,
        early: true,
      },
      [],
    );
    const view = config(buffer.configAddress);
    const words = Array.from({ length: 7 }, (_, i) => view.getUint32(4 * i, true));
    expect(words).toEqual([7, 6, 5, 256, 1, 1, 98304]);
    expect(view.getBigUint64(32, true)).toBe(0x1122334455667788n);
    expect(view.getUint32(48, true)).toBe(1);
    const attribute = new DataView(bytesAt(view.getBigUint64(40, true), 72).slice().buffer);
    const attributeWords = Array.from({ length: 18 }, (_, i) => attribute.getUint32(4 * i, true));
    expect(attributeWords).toEqual([6, 0, 1, ...Array.from({ length: 15 }, () => 0)]);
    buffer.encode({ stream: 0n, grid: 3, threads: 32, sharedBytes: 0, early: false }, []);
    const plain = config(buffer.configAddress);
    expect(Array.from({ length: 7 }, (_, i) => plain.getUint32(4 * i, true))).toEqual([
      3, 1, 1, 32, 1, 1, 0,
    ]);
    expect(plain.getUint32(48, true)).toBe(0);
    buffer.close();
  });

  it('points to each argument in its own type', () => {
    const buffer = new LaunchBuffer();
    const shape = { stream: 0n, grid: 1, threads: 32, sharedBytes: 0, early: false };
    buffer.encode(shape, [0xfedcba9876543210n, -1n, -5, 2 ** 31 - 1, { float: 0.5 }, 0n]);
    const values = Array.from({ length: 6 }, (_, i) => {
      const address = longAt(buffer.pointersAddress + BigInt(8 * i));
      return new DataView(bytesAt(address, 8).slice().buffer);
    });
    expect(values[0]?.getBigUint64(0, true)).toBe(0xfedcba9876543210n);
    expect(values[1]?.getBigInt64(0, true)).toBe(-1n);
    expect(values[2]?.getInt32(0, true)).toBe(-5);
    expect(values[3]?.getInt32(0, true)).toBe(2 ** 31 - 1);
    expect(values[4]?.getFloat32(0, true)).toBe(0.5);
    expect(values[5]?.getBigUint64(0, true)).toBe(0n);
    buffer.close();
    buffer.close();
  });

  it('refuses what no kernel takes', () => {
    const buffer = new LaunchBuffer();
    const shape = { stream: 0n, grid: 1, threads: 32, sharedBytes: 0, early: false };
    const encode = (grid: number, args: readonly number[]) => () => {
      buffer.encode({ ...shape, grid }, args);
    };
    expect(encode(1, [0.5])).toThrow(/argument 0, 0.5, is an int/);
    expect(encode(1, [2 ** 31])).toThrow(/is an int/);
    expect(encode(0, [])).toThrow(/has blocks/);
    expect(
      encode(
        1,
        Array.from({ length: 33 }, () => 0),
      ),
    ).toThrow(/at most 32/);
    buffer.close();
  });
});

describe('a kernel module', () => {
  const folder = mkdtempSync(join(tmpdir(), 'readonce-kernels-'));
  const path = join(folder, 'kernels.fatbin');
  writeFileSync(path, 'image');
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });

  const load = (major = 9) => {
    const fake = fakeDriver(fakeGpu({ major }));
    const module = KernelModule.load(CudaDevice.open(0, fake.driver), path);
    return { ...fake, module };
  };

  it('looks up a kernel once, and asks for shared memory when it needs more', () => {
    const { module, calls, names } = load();
    calls.length = 0;
    for (const sharedBytes of [0, 49152, 98304, 98304, 50000]) {
      module.launch('attend', { stream: { handle: 1n }, grid: 2, threads: 128, sharedBytes }, [1]);
    }
    expect(names().filter((name) => name !== 'cuLaunchKernelEx')).toEqual([
      'cuModuleGetFunction',
      'cuFuncSetAttribute',
    ]);
    const handle = calls[1]?.args[1];
    const allowed = calls.find(({ name }) => name === 'cuFuncSetAttribute');
    expect(allowed?.args).toEqual([handle, 8, 98304]);
    expect(names().filter((name) => name === 'cuLaunchKernelEx')).toHaveLength(5);
    module.close();
    module.close();
    expect(names().filter((name) => name === 'cuModuleUnload')).toHaveLength(1);
  });

  it.each([
    [8, 0],
    [9, 1],
    [10, 1],
  ])('lets a kernel begin early only where the card can: capability %i', (major, attributes) => {
    const { module, calls } = load(major);
    module.launch('merge', { stream: { handle: 1n }, grid: 1, threads: 32, early: true }, []);
    const address = calls.find(({ name }) => name === 'cuLaunchKernelEx')?.args[0];
    expect(typeof address).toBe('bigint');
    expect(config(address as bigint).getUint32(48, true)).toBe(attributes);
    module.close();
  });

  it('counts the blocks that the whole card runs', () => {
    const { module } = load();
    expect(module.residentBlocks('attend', { threads: 128, sharedBytes: 1000 })).toBe(264);
    module.close();
  });

  it('is refused for a card that is too old, and when it is missing', () => {
    const old = CudaDevice.open(0, fakeDriver(fakeGpu({ major: 7 })).driver);
    expect(() => KernelModule.load(old, path)).toThrow(/capability 8.0 or higher .* has 7.0/);
    const device = CudaDevice.open(0, fakeDriver(fakeGpu()).driver);
    const missing = expect.objectContaining({ code: 'engine_unavailable' });
    expect(() => KernelModule.load(device, join(folder, 'none'))).toThrow(missing);
    expect(() => KernelModule.load(device, join(folder, 'none'))).toThrow(/npm run build:native/);
  });

  it('is looked for in dist', () => {
    const root = fileURLToPath(new URL('../..', import.meta.url));
    expect(defaultKernelsPath()).toBe(join(root, 'dist', 'native', 'kernels.fatbin'));
  });
});
