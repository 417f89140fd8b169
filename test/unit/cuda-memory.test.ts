import { describe, expect, it } from 'vitest';
import { Arena, Layout } from '../../src/runtime/cuda/arena.ts';
import { CudaDevice } from '../../src/runtime/cuda/device.ts';
import { GrowingMemory, granularity } from '../../src/runtime/cuda/growing-memory.ts';
import { fakeDriver, fakeGpu } from '../support/fake-cuda.ts';
import { fakeGranuleBytes, fakeKernelGpu, virtualMemory } from '../support/fake-memory.ts';

describe('a layout', () => {
  it('lays regions behind one another, each at a multiple of 256 bytes', () => {
    const layout = new Layout();
    const regions = [1, 256, 257, 0, 5].map((sizeBytes) => layout.add(sizeBytes));
    expect(regions).toEqual([
      { offsetBytes: 0, sizeBytes: 1 },
      { offsetBytes: 256, sizeBytes: 256 },
      { offsetBytes: 512, sizeBytes: 257 },
      { offsetBytes: 1024, sizeBytes: 0 },
      { offsetBytes: 1024, sizeBytes: 5 },
    ]);
    expect(layout.sizeBytes).toBe(1280);
  });
});

describe('an arena', () => {
  it('is one allocation, freed once', () => {
    const { driver, calls } = fakeDriver(fakeGpu());
    const device = CudaDevice.open(0, driver);
    const layout = new Layout();
    const [first, second] = [layout.add(10), layout.add(1000)];
    const arena = new Arena(device, layout);
    expect(arena.sizeBytes).toBe(1280);
    expect(arena.address(second)).toBe(arena.address(first) + 256n);
    arena.close();
    arena.close();
    const sizes = calls.filter(({ name }) => name === 'cuMemAlloc_v2').map(({ args }) => args[1]);
    expect(sizes).toEqual([1280]);
    expect(calls.filter(({ name }) => name === 'cuMemFree_v2')).toHaveLength(1);
  });

  it('of nothing has an address all the same', () => {
    const { driver } = fakeDriver(fakeGpu());
    expect(new Arena(CudaDevice.open(0, driver), new Layout()).sizeBytes).toBe(256);
  });
});

describe('memory that grows', () => {
  const open = (roomBytes = Infinity) => {
    const fake = fakeKernelGpu({ roomBytes: () => roomBytes });
    const chunkBytes = 2 * fakeGranuleBytes;
    const growing = new GrowingMemory(fake.gpu.device, { chunkBytes, mostChunks: 5 });
    return { ...fake, growing, chunkBytes };
  };

  it('reserves addresses and takes memory chunk by chunk, in any order', () => {
    const { growing, memory, chunkBytes } = open();
    expect(memory.reservedBytes()).toBe(5 * chunkBytes);
    expect(memory.createdBytes()).toBe(0);
    growing.back(3);
    growing.back(0);
    const backed = [0, 1, 2, 3, 4].filter((chunk) =>
      memory.isBacked(growing.address + BigInt(chunk * chunkBytes)),
    );
    expect(backed).toEqual([0, 3]);
    expect(memory.createdBytes()).toBe(2 * chunkBytes);
    growing.release(3);
    expect(memory.createdBytes()).toBe(chunkBytes);
    growing.back(3);
    growing.close();
    growing.close();
    expect([memory.createdBytes(), memory.reservedBytes()]).toEqual([0, 0]);
  });

  it('has nothing of a chunk that there is no memory for', () => {
    const { growing, memory, chunkBytes } = open(2 * fakeGranuleBytes);
    growing.back(0);
    expect(() => {
      growing.back(1);
    }).toThrow(expect.objectContaining({ code: 'out_of_memory' }));
    expect(memory.createdBytes()).toBe(chunkBytes);
    growing.release(0);
    growing.back(1);
    growing.close();
    expect(memory.createdBytes()).toBe(0);
  });

  it('refuses chunks of parts of granules, and a chunk twice', () => {
    const { growing, gpu } = open();
    const odd = { chunkBytes: fakeGranuleBytes + 4096, mostChunks: 1 };
    expect(() => new GrowingMemory(gpu.device, odd)).toThrow(/whole granules/);
    growing.back(1);
    expect(() => {
      growing.back(1);
    }).toThrow(/backed once/);
    expect(() => {
      growing.release(2);
    }).toThrow(/is backed/);
  });

  /**
   * CUmemAllocationProp has 32 bytes: type at 0, handle types at 4, location's type at 8 and id at
   * 12, a pointer for Windows at 16, flags at 24. CUmemAccessDesc has 12: the location, then flags.
   */
  it('is described to the driver as cuda.h lays it out', () => {
    const index = 3;
    const { driver, calls } = fakeDriver({
      ...fakeGpu(),
      ...virtualMemory().behaviours,
      cuDeviceGet: () => 0,
    });
    const device = CudaDevice.open(index, driver);
    expect(granularity(device)).toBe(fakeGranuleBytes);
    new GrowingMemory(device, { chunkBytes: fakeGranuleBytes, mostChunks: 1 }).back(0);
    const [pinned, onDevice, readAndWrite] = [1, 1, 3];
    const words = (view: unknown): readonly number[] => {
      if (!ArrayBuffer.isView(view)) throw new Error('Expected a structure');
      return [...new Int32Array(view.buffer, view.byteOffset, view.byteLength / 4)];
    };
    const properties = [pinned, 0, onDevice, index, 0, 0, 0, 0];
    for (const name of ['cuMemGetAllocationGranularity', 'cuMemCreate']) {
      const call = calls.find((each) => each.name === name);
      expect(
        words(call?.args.find((each) => ArrayBuffer.isView(each) && each.byteLength === 32)),
      ).toEqual(properties);
    }
    const access = calls.find(({ name }) => name === 'cuMemSetAccess');
    expect(words(access?.args[2])).toEqual([onDevice, index, readAndWrite]);
    expect(access?.args[3]).toBe(1);
  });
});
