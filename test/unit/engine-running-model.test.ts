import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import { startModel, type PlacedModel } from '../../src/engine/running-model.ts';
import { loadCheckpoint } from '../../src/model/load.ts';
import { createLogger } from '../../src/observability/logger.ts';
import type { WantedDevice } from '../../src/runtime/choose-device.ts';
import { createRuntime, type RuntimeOptions } from '../../src/runtime/create-runtime.ts';
import { h100 } from '../support/cuda-probe.ts';
import { tinyConfig, tinyFolder, tinyTensors } from '../support/tiny-checkpoint.ts';

let cacheFolder: string;
let model: string;
/** With 16-bit weights, which only a GPU takes as they lie. */
let placed: PlacedModel;

beforeAll(async () => {
  cacheFolder = mkdtempSync(join(tmpdir(), 'readonce-running-'));
  model = tinyFolder(tinyTensors(tinyConfig, 'F16'));
  const checkpoint = await loadCheckpoint({ model, cacheFolder, keepHalf: () => true });
  placed = { checkpoint, device: { device: 'cuda', index: 0, name: h100.name } };
});
afterAll(() => {
  for (const folder of [cacheFolder, model]) rmSync(folder, { recursive: true });
});

/** Starts it on a machine whose card fails with `error`. */
async function startOn(device: WantedDevice, error: Error) {
  const lines: string[] = [];
  const tried: string[] = [];
  const options = {
    model,
    cacheFolder,
    device,
    storeFolder: cacheFolder,
    storeMaxBytes: 2 ** 30,
    poolBytes: 0,
    maxRunningQueries: 1,
    maxQueryWaitMs: 1000,
    maxSessions: 1,
    logLevel: 'silent',
  } as const;
  const create: typeof createRuntime = (source, runtime: RuntimeOptions) => {
    tried.push(runtime.device.device);
    if (runtime.device.device === 'cuda') throw error;
    return createRuntime(source, { ...runtime, threads: 1 });
  };
  const stream = { write: (line: string) => void lines.push(line) };
  const logger = createLogger({ level: 'warn', stream });
  const started = startModel(placed, { options, logger, create });
  return { running: await Promise.allSettled([started]), tried, lines };
}

const full = new ReadonceError('out_of_memory', 'Expected 16 free bytes on GPU 0 but got 8');

describe('a model that the card has no memory for', () => {
  it('runs on the CPU by auto, which says why', async () => {
    const { running, tried, lines } = await startOn('auto', full);
    const [started] = running;
    if (started.status === 'rejected') throw started.reason;
    const { checkpoint, device, runtime, poolBytes } = started.value;
    expect(tried).toEqual(['cuda', 'cpu']);
    expect(device).toEqual({ device: 'cpu', reason: full.message });
    expect(lines.map((line) => JSON.parse(line) as unknown)).toEqual([
      expect.objectContaining({
        device: 'cpu',
        reason: full.message,
        msg: 'no memory for this model on the GPU',
      }),
    ]);
    expect(runtime.name).toBe('ort-cpu');
    expect(poolBytes).toBeGreaterThan(0);
    expect(checkpoint.fingerprint).toBe(placed.checkpoint.fingerprint);
    expect([...checkpoint.tensors.values()].filter(({ type }) => type === 'float16')).toEqual([]);
    runtime.close();
  });

  it.each([
    { device: 'cuda', error: full },
    { device: 'auto', error: new ReadonceError('internal', 'another') },
    { device: 'auto', error: new TypeError('a defect') },
  ] as const)('or that fails otherwise: $device tells $error', async ({ device, error }) => {
    const { running, tried } = await startOn(device, error);
    expect(running).toMatchObject([{ status: 'rejected', reason: error }]);
    expect(tried).toEqual(['cuda']);
  });
});
