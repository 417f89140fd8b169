import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { fourBitModel } from '../support/four-bit-model.ts';
import { runtimeContract } from './runtime-contract.ts';

// Steps multiply by blocks of four bits, in float32's precision: inputs keep about 16 bits of the
// largest in their block. Seen: logits up to 3e-5 from an exact computation.
runtimeContract(
  'ort-cpu in four bits',
  (model) => createOrtCpuRuntime(model, { threads: 2 }),
  { logits: 1e-3, rows: 1e-4, scores: 2e-5 },
  fourBitModel,
);
