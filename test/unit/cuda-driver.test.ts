import { describe, expect, it } from 'vitest';
import { ReadonceError, type ErrorCode } from '../../src/core/errors.ts';
import { cudaDevices, CudaDevice } from '../../src/runtime/cuda/device.ts';
import { addressOf, allocateStable, bytesAt, loadCuda } from '../../src/runtime/cuda/driver-api.ts';
import { packRowCopy } from '../../src/runtime/cuda/stream.ts';
import { fakeDriver, fakeGpu } from '../support/fake-cuda.ts';

function thrownBy(run: () => unknown): ReadonceError {
  try {
    run();
  } catch (error) {
    if (error instanceof ReadonceError) return error;
    throw error;
  }
  throw new Error('Expected an error but nothing was thrown');
}

function hasDriver(): boolean {
  try {
    loadCuda();
    return true;
  } catch {
    return false;
  }
}

describe('the CUDA driver', () => {
  it.skipIf(hasDriver())('says what is missing where there is none', () => {
    const error = thrownBy(() => CudaDevice.open(0));
    expect(error.code).toBe('engine_unavailable');
    expect(error.message).toMatch(/^Expected .* but .*(driver|GPU).*use the CPU$/s);
    expect(thrownBy(() => cudaDevices()).code).toBe('engine_unavailable');
  });

  it.each<[number, ErrorCode, RegExp]>([
    [2, 'out_of_memory', /smaller model/],
    [100, 'engine_unavailable', /nvidia-smi/],
    [36, 'engine_unavailable', /update the NVIDIA driver to 580/],
    [209, 'engine_unavailable', /build:native/],
    [222, 'engine_unavailable', /build:native/],
    [803, 'engine_unavailable', /restart the machine/],
    [700, 'internal', /./],
    [999, 'internal', /./],
  ])('makes status %i an error of ours, with its name and text', (status, code, hint) => {
    const { driver } = fakeDriver({ cuStreamSynchronize: () => status });
    const error = thrownBy(() => {
      driver.call('cuStreamSynchronize', 1n);
    });
    expect(error.code).toBe(code);
    expect(error.message).toContain('Expected cuStreamSynchronize to succeed');
    expect(error.message).toContain(`error ${status} (text of ${status})`);
    expect(error.message).toMatch(hint);
    expect(error.details).toEqual({ call: 'cuStreamSynchronize', status, name: `error ${status}` });
  });
});

describe('CUDA devices', () => {
  it('are listed with what they say about themselves', () => {
    const { driver } = fakeDriver(fakeGpu());
    expect(cudaDevices(driver)).toEqual([
      {
        index: 0,
        name: 'Fake GPU',
        computeCapability: { major: 9, minor: 0 },
        multiprocessors: 132,
        totalBytes: 80e9,
      },
    ]);
  });

  it('are opened in their primary context, and given back once', () => {
    const { driver, calls, names } = fakeDriver(fakeGpu());
    const device = CudaDevice.open(0, driver);
    expect(device).toMatchObject({ name: 'Fake GPU', driverVersion: 13000, index: 0 });
    const current = calls.find(({ name }) => name === 'cuCtxSetCurrent');
    expect(current?.args).toEqual([expect.any(BigInt)]);
    expect(device.memory()).toEqual({ freeBytes: 5e9, totalBytes: 80e9 });
    device.close();
    device.close();
    expect(names().filter((name) => name === 'cuDevicePrimaryCtxRelease_v2')).toHaveLength(1);
    expect(thrownBy(() => CudaDevice.open(1, driver)).code).toBe('engine_unavailable');
  });

  it('are refused with a driver that is too old', () => {
    const old = (out: unknown) => {
      if (out instanceof Int32Array) out[0] = 11040;
      return 0;
    };
    const { driver } = fakeDriver({ ...fakeGpu(), cuDriverGetVersion: old });
    const error = thrownBy(() => CudaDevice.open(0, driver));
    expect(error.code).toBe('engine_unavailable');
    expect(error.message).toMatch(/CUDA 12.0 or later but got one for 11.4: update it to 580/);
  });

  it('say how much is free when memory runs out', () => {
    const { driver } = fakeDriver({ ...fakeGpu(), cuMemAlloc_v2: () => 2 });
    const error = thrownBy(() => CudaDevice.open(0, driver).allocate(10e12));
    expect(error.code).toBe('out_of_memory');
    expect(error.message).toContain(
      'Expected 10000000000000 free bytes on GPU 0 (Fake GPU) but got 5000000000 of 80000000000',
    );
    expect(error.details).toMatchObject({ sizeBytes: 10e12, freeBytes: 5e9, totalBytes: 80e9 });
  });

  it('free memory once, at its address', () => {
    const { driver, calls } = fakeDriver(fakeGpu());
    const memory = CudaDevice.open(0, driver).allocate(4096);
    memory.close();
    memory.close();
    const freed = calls.filter(({ name }) => name === 'cuMemFree_v2');
    expect(freed.map(({ args }) => args)).toEqual([[memory.address]]);
  });

  it('give pinned memory as bytes and as parts', () => {
    const host = allocateStable(64);
    const { driver, names } = fakeDriver({
      ...fakeGpu(),
      cuMemHostAlloc: (out) => {
        if (out instanceof BigUint64Array) out[0] = host.address;
        return 0;
      },
    });
    const pinned = CudaDevice.open(0, driver).pin(64);
    pinned.bytes[5] = 7;
    expect(new Uint8Array(host.buffer)[5]).toBe(7);
    expect(addressOf(pinned.bytes)).toBe(host.address);
    expect(pinned.part({ offsetBytes: 16, sizeBytes: 48 })).toEqual({
      address: host.address + 16n,
      sizeBytes: 48,
    });
    expect(() => pinned.part({ offsetBytes: 17, sizeBytes: 48 })).toThrow(/lie in 64/);
    pinned.close();
    expect(names().at(-1)).toBe('cuMemFreeHost');
    host.free();
  });
});

describe('memory at an address', () => {
  it('is read and written through bytes over it', () => {
    const memory = allocateStable(32);
    bytesAt(memory.address, 32).set([1, 2, 3], 4);
    expect([...new Uint8Array(memory.buffer).slice(3, 8)]).toEqual([0, 1, 2, 3, 0]);
    memory.free();
  });

  it('is that of a part of an array too', () => {
    const array = new Float32Array(100);
    expect(addressOf(array.subarray(25))).toBe(addressOf(array) + 100n);
  });
});

describe('streams', () => {
  const open = (behaviours = {}) => {
    const fake = fakeDriver({ ...fakeGpu(), ...behaviours });
    const stream = CudaDevice.open(0, fake.driver).createStream();
    fake.calls.length = 0;
    return { ...fake, stream };
  };

  it('copy arrays, parts and rows, and leave out what is empty', () => {
    const { stream, calls } = open();
    const source = Uint8Array.of(1, 2, 3, 4);
    const part = { address: 77n, sizeBytes: 9 };
    stream.copyToDevice(1n, source);
    stream.copyToDevice(1n, part, 8);
    stream.copyToHost(source, 2n, 3);
    stream.copyToHost(part, 2n);
    stream.copyOnDevice({ target: 3n, source: 4n, sizeBytes: 5 });
    stream.copyToDevice(1n, new Uint8Array());
    stream.copyOnDevice({ target: 3n, source: 4n, sizeBytes: 0 });
    stream.fill(6n, { sizeBytes: 7, value: 255 });
    stream.fill32(6n, { count: 8, value: -1 });
    const { handle } = stream;
    expect(calls).toEqual([
      { name: 'cuMemcpyHtoDAsync_v2', args: [1n, source, 4, handle] },
      { name: 'cuMemcpyHtoDAsync_v2', args: [1n, 77n, 8, handle] },
      { name: 'cuMemcpyDtoHAsync_v2', args: [source, 2n, 3, handle] },
      { name: 'cuMemcpyDtoHAsync_v2', args: [77n, 2n, 9, handle] },
      { name: 'cuMemcpyDtoDAsync_v2', args: [3n, 4n, 5, handle] },
      { name: 'cuMemsetD8Async', args: [6n, 255, 7, handle] },
      { name: 'cuMemsetD32Async', args: [6n, 0xffffffff, 8, handle] },
    ]);
    expect(() => {
      stream.copyToDevice(1n, source, 5);
    }).toThrow(/copy of 5 bytes fits 4/);
  });

  it('describe a copy of rows as CUDA_MEMCPY2D does', () => {
    const source = new Uint8Array(64);
    const copy = {
      target: 9n,
      targetPitchBytes: 32,
      sourcePitchBytes: 16,
      widthBytes: 12,
      rows: 4,
    };
    const expected = new BigUint64Array(16);
    expected[2] = 1n; // srcMemoryType, at byte 16
    expected[3] = addressOf(source); // srcHost
    expected[6] = 16n; // srcPitch
    expected[9] = 2n; // dstMemoryType, at byte 72
    expected[11] = 9n; // dstDevice
    expected[13] = 32n; // dstPitch
    expected[14] = 12n; // WidthInBytes
    expected[15] = 4n; // Height
    expect(packRowCopy({ ...copy, source })).toEqual(expected);
    expect(packRowCopy({ ...copy, source: { address: 5n, sizeBytes: 64 } })[3]).toBe(5n);
  });

  it('measure between events', () => {
    const { stream, names } = open({
      cuEventElapsedTime: (out: unknown) => {
        if (out instanceof Float32Array) out[0] = 1.5;
        return 0;
      },
    });
    const [first, second] = [stream.record(), stream.record()];
    expect(first.elapsedMs(second)).toBe(1.5);
    stream.waitFor(second);
    first.close();
    first.close();
    expect(names().slice(4)).toEqual([
      'cuEventSynchronize',
      'cuEventElapsedTime',
      'cuStreamWaitEvent',
      'cuEventDestroy_v2',
    ]);
  });

  it('capture work in a graph, and keep only what can be launched', () => {
    const { stream, calls, names } = open({
      cuStreamEndCapture: (_: unknown, out: unknown) => {
        if (out instanceof BigUint64Array) out[0] = 99n;
        return 0;
      },
    });
    const graph = stream.capture(() => {
      stream.fill(1n, { sizeBytes: 1, value: 0 });
    });
    graph.launch(stream);
    graph.close();
    graph.close();
    expect(names()).toEqual([
      'cuStreamBeginCapture_v2',
      'cuMemsetD8Async',
      'cuStreamEndCapture',
      'cuGraphInstantiateWithFlags',
      'cuGraphDestroy',
      'cuGraphLaunch',
      'cuGraphExecDestroy',
    ]);
    expect(calls[0]?.args).toEqual([stream.handle, 2]);
    expect(calls[4]?.args).toEqual([99n]);
  });

  it('throw a capture away when its work fails', () => {
    const { stream, names } = open({ cuMemsetD8Async: () => 900, cuStreamEndCapture: () => 901 });
    const error = thrownBy(() =>
      stream.capture(() => {
        stream.fill(1n, { sizeBytes: 1, value: 0 });
      }),
    );
    expect(error.message).toContain('error 900');
    expect(names()).toEqual(['cuStreamBeginCapture_v2', 'cuMemsetD8Async', 'cuStreamEndCapture']);
  });
});
