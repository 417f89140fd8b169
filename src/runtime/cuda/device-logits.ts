import { ReadonceError } from '../../core/errors.ts';
import type { ComputeType } from '../../graph/layer-graphs.ts';
import type { Logits } from '../runtime.ts';
import { insteadOf } from './compute-type.ts';
import type { KernelGpu } from './gpu.ts';

/** Where logits are, and what they were computed in. */
export interface DeviceLogitsOptions {
  readonly gpu: Pick<KernelGpu, 'stream'>;
  readonly type: ComputeType;
}

/** Logits that stay on the device until they are asked for. */
export class DeviceLogits implements Logits {
  readonly #options: DeviceLogitsOptions;
  readonly #largest: number;
  readonly #row: { readonly at: bigint; readonly rowBytes: number };

  constructor(
    options: DeviceLogitsOptions,
    largest: number,
    row: { readonly at: bigint; readonly rowBytes: number },
  ) {
    this.#options = options;
    this.#largest = largest;
    this.#row = row;
  }

  argmax(): number {
    if (this.#largest >= 0) return this.#largest;
    throw new ReadonceError(
      'unsupported',
      `Expected finite logits but the model gave others: ${insteadOf(this.#options.type)}`,
    );
  }

  values(): Float32Array {
    const { at, rowBytes } = this.#row;
    const values = new Float32Array(rowBytes / Float32Array.BYTES_PER_ELEMENT);
    const { stream } = this.#options.gpu;
    stream.copyToHost(values, at);
    stream.synchronize();
    return values;
  }
}
