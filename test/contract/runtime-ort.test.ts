import { createOrtCpuRuntime } from '../../src/runtime/ort/cpu-runtime.ts';
import { runtimeContract } from './runtime-contract.ts';

// float32 throughout: rounding grows with depth and with the size of logits, seen up to 2e-5.
runtimeContract('ort-cpu', (model) => createOrtCpuRuntime(model, { threads: 2 }), {
  logits: 2e-4,
  rows: 1e-4,
  scores: 2e-5,
});
