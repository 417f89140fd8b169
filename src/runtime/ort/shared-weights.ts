import type { Closeable } from '../../core/closeable.ts';
import type { TensorRef } from '../../model/checkpoint.ts';
import { mapFile, type MappedFile } from '../mapped-file.ts';
import { OrtTensor, type TensorScope } from './tensor.ts';

/**
 * The model's weights as values that every session of an environment shares: mapped once, and
 * packed for the CPU's matrix kernels once (docs/adr/0001-one-copy-of-the-weights.md).
 */
export class SharedWeights implements Closeable {
  readonly tensors = new Map<string, OrtTensor>();
  readonly #files = new Map<string, MappedFile>();

  constructor(scope: TensorScope, refs: Iterable<TensorRef>) {
    for (const ref of refs) {
      let file = this.#files.get(ref.file);
      if (file === undefined) {
        file = mapFile(ref.file);
        this.#files.set(ref.file, file);
      }
      const pointer = file.pointer(ref.offsetBytes);
      const memory = { pointer, type: ref.type ?? 'float32' };
      this.tensors.set(ref.name, new OrtTensor(scope, memory, ref.shape));
    }
  }

  /**
   * Gives the mapped pages back: once sessions have packed the matrices, only norms and the
   * embeddings of the tokens at hand are read.
   */
  releasePages(): void {
    for (const file of this.#files.values()) file.releasePages();
  }

  /** After the sessions that use them. */
  close(): void {
    for (const tensor of this.tensors.values()) tensor.close();
    this.tensors.clear();
    for (const file of this.#files.values()) file.close();
    this.#files.clear();
  }
}
