import type { TensorGpu } from '../../src/runtime/cuda/gpu.ts';
import type { LayerSessions } from '../../src/runtime/cuda/layer-runner.ts';
import type { OrtBinding, OrtSession } from '../../src/runtime/ort/session.ts';
import type { OrtTensor, TensorData } from '../../src/runtime/ort/tensor.ts';
import { fakeKernelGpu, type FakeKernelGpu } from './fake-memory.ts';

/** A GPU without a card, and sessions over it that compute nothing. */
export interface FakeTensorGpu extends Omit<FakeKernelGpu, 'gpu'> {
  readonly gpu: TensorGpu;
  readonly sessions: Pick<LayerSessions, 'get'>;
  /** Values and bindings that are not closed. */
  readonly live: ReadonlySet<object>;
  /** Runs of sessions so far, by the graph's kind. */
  readonly runs: string[];
}

/** What layer graphs run on, with books of what of ONNX Runtime's is open. */
export function fakeTensorGpu(options: Parameters<typeof fakeKernelGpu>[0] = {}): FakeTensorGpu {
  const fake = fakeKernelGpu(options);
  const live = new Set<object>();
  const runs: string[] = [];
  const held = (part: object): object => {
    const closing = Object.assign(part, { close: () => void live.delete(closing) });
    live.add(closing);
    return closing;
  };
  const ort = {
    tensor: (_type: string, address: bigint, shape: readonly number[]) =>
      held({ address, shape }) as OrtTensor,
    hostTensor: <D extends TensorData>(data: D, shape: readonly number[]) =>
      held({ data, shape }) as OrtTensor<D>,
  };
  const done = (): void => undefined;
  const sessionOf = (kind: string): OrtSession => {
    const run = (): void => void runs.push(kind);
    const bind = (): OrtBinding => held({ input: done, output: done, run }) as OrtBinding;
    return { bind } as Partial<OrtSession> as OrtSession;
  };
  return { ...fake, gpu: { ...fake.gpu, ort }, sessions: { get: sessionOf }, live, runs };
}
