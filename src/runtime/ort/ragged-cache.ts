import { assert, defined } from '../../core/assert.ts';
import { headCount, type KvLayout } from '../../core/kv-layout.ts';
import { allocateFloats } from '../allocate.ts';
import type { RaggedCache, RaggedShape } from '../runtime.ts';
import type { OrtEnvironment } from './session.ts';
import type { OrtTensor } from './tensor.ts';

/**
 * A loaded context in host memory. Each head owns `heldLengths[head] + tailCapacity` contiguous
 * rows: its context rows, then the tail, which the graph appends to in place. The tail has to
 * follow the rows that attention sees; if those are fewer than are held, the rows that it will
 * overwrite lie at the end meanwhile, where there is room for as many (docs/adr/0005).
 */
export class OrtRaggedCache implements RaggedCache {
  readonly #environment: OrtEnvironment;
  readonly #layout: KvLayout;
  /** Rows of each head, tail included. */
  readonly #keys: OrtTensor<Float32Array>[];
  readonly #values: OrtTensor<Float32Array>[];
  #generation = 0;
  #lengths: Uint32Array;
  #heldLengths: Uint32Array;
  #tailCapacity: number;
  #tailLength = 0;

  constructor(environment: OrtEnvironment, layout: KvLayout, shape: RaggedShape) {
    assert(shape.lengths.length === headCount(layout), 'a length for every head');
    this.#environment = environment;
    this.#layout = layout;
    this.#heldLengths = shape.lengths.slice();
    this.#lengths = this.#heldLengths;
    this.#tailCapacity = shape.tailCapacity;
    const allocate = (): OrtTensor<Float32Array>[] =>
      Array.from(shape.lengths, (length) => this.#allocate(length + shape.tailCapacity));
    this.#keys = allocate();
    this.#values = allocate();
  }

  get lengths(): Uint32Array {
    return this.#lengths;
  }

  get heldLengths(): Uint32Array {
    return this.#heldLengths;
  }

  get tailLength(): number {
    return this.#tailLength;
  }

  get tailCapacity(): number {
    return this.#tailCapacity;
  }

  get sizeBytes(): number {
    const tensors = [...this.#keys, ...this.#values];
    return tensors.reduce((sum, { data }) => sum + data.byteLength, 0);
  }

  /** Past and present of each head; others after each `generation`. */
  get keyTensors(): readonly OrtTensor<Float32Array>[] {
    return this.#keys;
  }

  get valueTensors(): readonly OrtTensor<Float32Array>[] {
    return this.#values;
  }

  /** Rises when the tensors are replaced: what is bound to the old ones must not run. */
  get generation(): number {
    return this.#generation;
  }

  keys(head: number): Float32Array {
    return this.#contextRows(this.#keys, head);
  }

  values(head: number): Float32Array {
    return this.#contextRows(this.#values, head);
  }

  /** Called by the runtime after it appended rows. */
  append(rows: number): void {
    assert(this.#tailLength + rows <= this.#tailCapacity, 'tail overflow');
    this.#tailLength += rows;
  }

  truncateTail(length: number): void {
    assert(length >= 0 && length <= this.#tailLength, `cannot truncate the tail to ${length}`);
    this.#tailLength = length;
  }

  attendTo(lengths: Uint32Array): void {
    assert(this.#tailLength === 0, 'expected an empty tail');
    assert(
      lengths.length === this.#heldLengths.length &&
        lengths.every((length, head) => length <= (this.#heldLengths[head] as number)),
      'expected at most the rows that are held',
    );
    if (lengths.every((length, head) => length === this.#lengths[head])) return;
    this.#moveCovered('back');
    this.#lengths = lengths.slice();
    this.#moveCovered('aside');
  }

  resize({ lengths, tailCapacity }: RaggedShape): void {
    assert(lengths.length === this.#heldLengths.length, 'a length for every head');
    this.attendTo(this.#heldLengths);
    this.#generation++;
    for (const tensors of [this.#keys, this.#values]) {
      for (const [head, old] of tensors.entries()) {
        const length = lengths[head] as number;
        const kept = Math.min(length, this.#heldLengths[head] as number) * this.#layout.headDim;
        const next = this.#allocate(length + tailCapacity);
        next.data.set(old.data.subarray(0, kept));
        tensors[head] = next;
        old.close();
      }
    }
    this.#heldLengths = lengths.slice();
    this.#lengths = this.#heldLengths;
    this.#tailCapacity = tailCapacity;
  }

  close(): void {
    this.#generation++;
    for (const tensor of [...this.#keys.splice(0), ...this.#values.splice(0)]) tensor.close();
  }

  /**
   * Moves the held rows that the tail covers, if attention sees fewer than are held, behind
   * whatever ends last, the held rows or the tail; or moves them back.
   */
  #moveCovered(direction: 'aside' | 'back'): void {
    const { headDim } = this.#layout;
    for (const [head, length] of this.#lengths.entries()) {
      const held = this.#heldLengths[head] as number;
      const covered = Math.min(held - length, this.#tailCapacity);
      if (covered === 0) continue;
      const place = length * headDim;
      const aside = Math.max(held, length + this.#tailCapacity) * headDim;
      const [to, from] = direction === 'aside' ? [aside, place] : [place, aside];
      for (const tensors of [this.#keys, this.#values]) {
        floats(tensors[head]).copyWithin(to, from, from + covered * headDim);
      }
    }
  }

  #contextRows(tensors: readonly OrtTensor<Float32Array>[], head: number): Float32Array {
    const rows = defined(this.#lengths[head], `head ${head}`);
    return floats(tensors[head]).subarray(0, rows * this.#layout.headDim);
  }

  #allocate(rows: number): OrtTensor<Float32Array> {
    const { headDim } = this.#layout;
    return this.#environment.tensor(allocateFloats(rows * headDim), [1, 1, rows, headDim]);
  }
}

function floats(tensor: OrtTensor<Float32Array> | undefined): Float32Array {
  return defined(tensor, 'the tensor of a head').data;
}
