import { createReferenceRuntime } from '../../src/runtime/reference/reference-runtime.ts';
import { runtimeContract } from './runtime-contract.ts';

// The arithmetic is float64; what remains is the float32 rounding of results (half a unit in the
// last place: 5e-7 from 8 to 16, 3e-8 below 1) and of context rows, seen in logits.
runtimeContract('reference', createReferenceRuntime, { logits: 1e-6, rows: 5e-7, scores: 3e-8 });
