import type { Closeable } from '../../core/closeable.ts';
import type { CudaDevice, DeviceMemory } from './device.ts';

/** What every allocation begins at a multiple of. */
const alignment = 256;

/** A run of a layout. */
export interface Region {
  readonly offsetBytes: number;
  readonly sizeBytes: number;
}

/** Lays regions one behind another, so that one allocation holds them all. */
export class Layout {
  #sizeBytes = 0;

  /** Of all regions so far. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  add(sizeBytes: number): Region {
    const region = { offsetBytes: this.#sizeBytes, sizeBytes };
    this.#sizeBytes += Math.ceil(sizeBytes / alignment) * alignment;
    return region;
  }
}

/** The device memory of a layout. */
export class Arena implements Closeable {
  readonly #memory: DeviceMemory;

  /** @throws ReadonceError `out_of_memory` */
  constructor(device: CudaDevice, layout: Layout) {
    this.#memory = device.allocate(Math.max(layout.sizeBytes, alignment));
  }

  get sizeBytes(): number {
    return this.#memory.sizeBytes;
  }

  address(region: Region): bigint {
    return this.#memory.address + BigInt(region.offsetBytes);
  }

  close(): void {
    this.#memory.close();
  }
}
