import { assert } from '../../core/assert.ts';
import type { Closeable } from '../../core/closeable.ts';
import { allocateStable, type StableMemory } from './driver-api.ts';

/** A kernel's argument: a pointer or `int64_t`, an `int`, or a `float`. */
export type KernelArgument = bigint | number | { readonly float: number };

/** A grid's thread blocks: x, or x and y, or all three. */
export type Grid = number | readonly [number, number] | readonly [number, number, number];

/** What CUlaunchConfig says. */
export interface LaunchConfig {
  /** CUstream. */
  readonly stream: bigint;
  readonly grid: Grid;
  /** Threads of a block, along x. */
  readonly threads: number;
  /** Dynamic shared memory of a block, in bytes. */
  readonly sharedBytes: number;
  /** Programmatic stream serialization: may begin before the kernel ahead of it has ended. */
  readonly early: boolean;
}

/** The most arguments of a kernel; `attend` has 19. */
const maxArguments = 32;
const programmaticStreamSerialization = 6;

/**
 * Where things lie, in bytes. CUlaunchConfig (56 bytes): grid x, y, z at 0, 4, 8; block x, y, z at
 * 12, 16, 20; shared bytes at 24; stream at 32; address of attributes at 40; their number at 48.
 * CUlaunchAttribute (72 bytes): id at 0, value at 8. Then pointers to arguments, and those.
 */
const at = { config: 0, attribute: 64, pointers: 144, values: 144 + 8 * maxArguments } as const;
const sizeBytes = at.values + 8 * maxArguments;

/**
 * What a launch hands to the driver, in memory of its own that is written anew for each: the driver
 * copies it during the call. Little-endian machines only, which is all that CUDA runs on.
 */
export class LaunchBuffer implements Closeable {
  /** Of the CUlaunchConfig. */
  readonly configAddress: bigint;
  /** Of the array of pointers to arguments. */
  readonly pointersAddress: bigint;
  readonly #memory: StableMemory;
  readonly #words: Uint32Array;
  readonly #longs: BigUint64Array;
  readonly #ints: Int32Array;
  readonly #floats: Float32Array;
  #open = true;

  constructor() {
    this.#memory = allocateStable(sizeBytes);
    const { address, buffer } = this.#memory;
    this.configAddress = address + BigInt(at.config);
    this.pointersAddress = address + BigInt(at.pointers);
    this.#words = new Uint32Array(buffer);
    this.#longs = new BigUint64Array(buffer);
    this.#ints = new Int32Array(buffer, at.values);
    this.#floats = new Float32Array(buffer, at.values);
    for (let i = 0; i < maxArguments; i++) {
      this.#longs[at.pointers / 8 + i] = address + BigInt(at.values + 8 * i);
    }
    this.#longs[(at.config + 40) / 8] = address + BigInt(at.attribute);
    this.#words[at.attribute / 4] = programmaticStreamSerialization;
    this.#words[(at.attribute + 8) / 4] = 1;
  }

  /** Writes a launch; what was written before is gone. */
  encode(config: LaunchConfig, args: readonly KernelArgument[]): void {
    assert(this.#open, 'a launch buffer is open');
    assert(args.length <= maxArguments, `at most ${maxArguments} arguments, not ${args.length}`);
    const { grid } = config;
    const words = this.#words;
    if (typeof grid === 'number') this.#writeGrid(grid, 1, 1);
    else this.#writeGrid(grid[0], grid[1], grid[2] ?? 1);
    words[3] = config.threads;
    words[4] = 1;
    words[5] = 1;
    words[6] = config.sharedBytes;
    this.#longs[4] = config.stream;
    words[12] = config.early ? 1 : 0;
    for (let i = 0; i < args.length; i++) this.#writeArgument(i, args[i] ?? 0);
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#memory.free();
  }

  #writeGrid(x: number, y: number, z: number): void {
    assert(x > 0 && y > 0 && z > 0, `a grid of ${x}×${y}×${z} has blocks`);
    this.#words[0] = x;
    this.#words[1] = y;
    this.#words[2] = z;
  }

  #writeArgument(i: number, argument: KernelArgument): void {
    if (typeof argument === 'bigint') {
      this.#longs[at.values / 8 + i] = argument;
    } else if (typeof argument === 'number') {
      assert(argument === (argument | 0), `argument ${i}, ${argument}, is an int`);
      this.#ints[2 * i] = argument;
    } else {
      this.#floats[2 * i] = argument.float;
    }
  }
}
