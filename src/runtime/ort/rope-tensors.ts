import type { Closeable } from '../../core/closeable.ts';
import type { ModelConfig } from '../../model/config.ts';
import { ropeTables } from '../../model/rope.ts';
import { OrtTensor, type TensorScope } from './tensor.ts';

/** The tables of rotary positions, one copy for all graphs of a model. */
export class RopeTensors implements Closeable {
  /** By the graphs' names of them. */
  readonly inputs: Readonly<Record<'rope_cos' | 'rope_sin', OrtTensor>>;

  constructor(scope: TensorScope, config: ModelConfig) {
    const { cos, sin } = ropeTables(config);
    const shape = [config.contextLength, config.headDim / 2];
    this.inputs = {
      rope_cos: new OrtTensor(scope, cos, shape),
      rope_sin: new OrtTensor(scope, sin, shape),
    };
  }

  close(): void {
    for (const tensor of Object.values(this.inputs)) tensor.close();
  }
}
