import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { fourBitModel } from '../support/four-bit-model.ts';
import { runtimeContract } from './runtime-contract.ts';

// The models' values are those of their blocks, so what is seen is the inputs' rounding in steps,
// to about 16 bits of the largest in a block of 32: logits of up to 13 are off by up to 2e-3.
runtimeContract(
  'ort-cpu in four bits',
  (model) => createOrtCpuRuntime(model, { threads: 2 }),
  { logits: 4e-3, rows: 1e-4, scores: 2e-5 },
  fourBitModel,
);
