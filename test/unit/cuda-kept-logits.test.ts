import { describe, expect, it } from 'vitest';
import { createRandom } from '../../src/core/random.ts';
import type { DeviceMemory } from '../../src/runtime/cuda/device.ts';
import { KeptLogits } from '../../src/runtime/cuda/kept-logits.ts';

function open() {
  let made = 0n;
  const live = new Set<bigint>();
  const allocate = (sizeBytes: number) => {
    const address = ++made;
    live.add(address);
    const memory = { address, sizeBytes, close: () => void live.delete(address) };
    return memory as Partial<DeviceMemory> as DeviceMemory;
  };
  return { kept: new KeptLogits({ allocate }, 64), live };
}

describe('memory for logits', () => {
  it('lasts for two calls after its own, whatever their numbers of runs', () => {
    const random = createRandom(5);
    for (let round = 0; round < 200; round++) {
      const { kept, live } = open();
      const calls: bigint[][] = [];
      for (let call = 0; call < 12; call++) {
        const runs = 1 + Math.floor(random.next() * 4);
        kept.reserve(3 * runs);
        const taken = Array.from({ length: runs }, () => kept.take());
        const before = calls.slice(-2).flat();
        expect(before.filter((address) => taken.includes(address))).toEqual([]);
        expect(new Set(taken).size).toBe(runs);
        calls.push(taken);
      }
      expect(live.size).toBeLessThanOrEqual(12);
      kept.close();
      expect(live.size).toBe(0);
    }
  });

  it('is not used up by calls that fail', () => {
    const { kept } = open();
    kept.reserve(3);
    const first = kept.take();
    for (let attempt = 0; attempt < 5; attempt++) {
      const failing = (): void => {
        kept.take();
        kept.take();
        throw new Error('no memory');
      };
      expect(() => kept.unlessFailed(failing)).toThrow('no memory');
    }
    const taken = [kept.take(), kept.take()];
    expect(taken).not.toContain(first);
  });
});
