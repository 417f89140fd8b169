import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { loadConfig } from '../../src/config/load-config.ts';
import { generalChecks, nodeCheck, storeCheck } from '../../src/cli/doctor-checks.ts';
import { describeReport, makeReport, type DoctorReport } from '../../src/cli/doctor-report.ts';
import { defined } from '../../src/core/assert.ts';
import { outlineModel } from '../../src/model/load.ts';
import { runCli } from '../../src/cli/run.ts';
import type { WantedDevice } from '../../src/runtime/choose-device.ts';
import { h100, probeOf, soundAnswer } from '../support/cuda-probe.ts';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-doctor-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

const sound = [{ name: 'node', ok: true, found: '22.0.0' }];
const noDriver = {
  askNative: () => ({ driver: { error: 'not\nfound', devices: [] }, failures: {} }),
};

function report(
  device: WantedDevice,
  { different = {}, general = sound }: Partial<ReportOptions> = {},
): DoctorReport {
  return makeReport({ wish: { device, deviceIndex: 0 }, general, probe: probeOf(different) });
}

interface ReportOptions {
  readonly different: Parameters<typeof probeOf>[0];
  readonly general: Parameters<typeof makeReport>[0]['general'];
}

describe('the verdict', () => {
  it('is what the configured device can do', () => {
    const label = 'cuda:0 NVIDIA H100 80GB HBM3';
    const verdict = (device: WantedDevice, different = {}) => {
      const { ok, device: judged } = report(device, { different });
      return [ok, judged.auto, judged.runs];
    };
    expect(verdict('cpu')).toEqual([true, label, 'cpu']);
    expect(verdict('auto')).toEqual([true, label, label]);
    expect(verdict('cuda')).toEqual([true, label, label]);
    expect(verdict('cpu', noDriver)).toEqual([true, 'cpu', 'cpu']);
    expect(verdict('auto', noDriver)).toEqual([true, 'cpu', 'cpu']);
    expect(verdict('cuda', noDriver)).toEqual([false, 'cpu', null]);
  });

  it('is that nothing runs without what any device needs', () => {
    const general = [{ name: 'model', ok: false, found: 'none', fix: 'Name one.' }];
    expect(report('cpu', { general })).toMatchObject({ ok: false, device: { runs: null } });
  });

  it('is of the configured model, too', async () => {
    const { config } = await outlineModel({ model: 'reader-mini', cacheFolder: folder });
    const small = defined(config, 'a config');
    const judge = (device: WantedDevice, model = { ...small, headDim: 96 }) =>
      makeReport({ wish: { device, deviceIndex: 0 }, general: sound, probe: probeOf(), model });
    expect(judge('auto')).toMatchObject({ ok: true, device: { auto: 'cpu', runs: 'cpu' } });
    expect(judge('auto').device.reason).toMatch(/^model-kernels: the model has heads of 96/);
    expect(judge('cuda')).toMatchObject({ ok: false, device: { runs: null } });
    expect(describeReport(judge('cuda'))).toMatch(/fails {2}model-kernels .*\n.*--device cpu/);
    expect(judge('cuda', small).cuda.slice(-2)).toMatchObject([
      { name: 'model-kernels', ok: true },
      { name: 'model-memory', ok: true, found: 'weights of 0.0 GB, the device has 85.0 GB' },
    ]);
    // 45.1 billion weights of its feed-forward layers, and some of attention.
    const large = { ...small, hiddenSize: 8192, feedForwardSize: 28_672, layers: 64 };
    const reason = 'model-memory: weights of 91.4 GB, the device has 85.0 GB';
    expect(judge('auto', large)).toMatchObject({ ok: true, device: { runs: 'cpu', reason } });
    expect(judge('cuda', large).ok).toBe(false);
    expect(describeReport(judge('cuda', large))).toMatch(
      /fails {2}model-memory .*\n.*--device cpu/,
    );
  });

  it('says why auto takes the CPU', () => {
    expect(report('auto').device.reason).toBeNull();
    expect(report('auto', { different: noDriver }).device.reason).toBe('driver: not\nfound');
  });
});

describe('the text', () => {
  it('has a line for each check, the fix below what fails, and the verdict', () => {
    const different = { ...noDriver, findKernels: () => undefined };
    const lines = describeReport(report('cuda', { different })).split('\n');
    expect(lines.slice(0, 6)).toEqual([
      'Needed by any device',
      '  ok     node               22.0.0',
      '',
      'Needed by CUDA',
      '  ok     platform           linux x64',
      '  ok     provider           1.29.0 in /ort',
    ]);
    const driver = lines.indexOf('  fails  driver             not found');
    expect(lines[driver + 1]).toMatch(/^ {28}Install NVIDIA's driver/);
    expect(lines.slice(-3)).toEqual([
      'Device auto takes: cpu (kernels: not built)',
      'Configured device: cuda, index 0; it cannot run',
      '',
    ]);
  });

  it('lists the devices if there are several', () => {
    expect(describeReport(report('auto'))).not.toContain('CUDA devices');
    const devices = [h100, { ...h100, index: 1 }];
    const different = {
      askNative: () => ({ ...soundAnswer, driver: { version: 13_000, devices } }),
    };
    expect(describeReport(report('auto', { different }))).toMatch(
      /CUDA devices\n {2}cuda:0 NVIDIA.*\n {2}cuda:1 NVIDIA.*\n\nDevice auto takes: cuda:0/,
    );
  });
});

describe('what any device needs', () => {
  it('is a new enough Node', () => {
    expect(nodeCheck('20.18.3')).toMatchObject({ ok: false });
    expect(nodeCheck('20.19.0').ok).toBe(true);
    expect(nodeCheck('24.1.0').ok).toBe(true);
  });

  it('is a folder for the store that can be written to or made; it is not made', () => {
    expect(storeCheck(folder)).toEqual({ name: 'store', ok: true, found: folder });
    const below = join(folder, 'a', 'b');
    expect(storeCheck(below)).toMatchObject({
      ok: true,
      found: `${below}, made by the first start`,
    });
    expect(existsSync(join(folder, 'a'))).toBe(false);
    const file = join(folder, 'file');
    writeFileSync(file, '');
    expect(storeCheck(join(file, 'c'))).toMatchObject({ ok: false, found: `${file} is no folder` });
  });

  it('is the runtime and a model, which is neither read whole nor downloaded', async () => {
    const find = async (model: string) => {
      const flags = { model, data: folder, cache: join(folder, 'cache') };
      const checks = await generalChecks(loadConfig({ flags, env: {} }).config);
      const { ok, found } = checks.find(({ name }) => name === 'model') ?? {};
      return { ok, found, others: checks.filter(({ name }) => name !== 'model') };
    };
    const embedded = await find('reader-mini');
    expect(embedded.ok).toBe(true);
    expect(embedded.found).toMatch(/^reader-mini: .*16M-parameter.*models.reader-mini/);
    expect(embedded.others.filter(({ ok }) => !ok)).toEqual([]);
    expect(await find('owner/name')).toMatchObject({
      ok: true,
      found: expect.stringContaining('to be downloaded') as string,
    });
    expect(await find(join(folder, 'none'))).toMatchObject({ ok: false });
    expect(existsSync(join(folder, 'cache'))).toBe(false);
  });
});

describe('readonce doctor', () => {
  async function run(...args: readonly string[]) {
    let out = '';
    let err = '';
    const settings = ['--model', 'reader-mini', '--data', join(folder, 'data')];
    const status = await runCli(['doctor', ...settings, ...args], {
      out: (text) => {
        out += text;
      },
      err: (text) => {
        err += text;
      },
      interactive: false,
    });
    return { status, out, err };
  }

  it('ends with status 0 if the configured device can run', async () => {
    const { status, out, err } = await run('--device', 'cpu');
    expect({ status, err }).toEqual({ status: 0, err: '' });
    expect(out).toMatch(/^Needed by any device\n.*node/);
    expect(out).toMatch(/\nConfigured device: cpu; it runs on cpu\n$/);
  });

  it('ends with status 1 if it cannot, and prints the same as JSON', async () => {
    // No machine has so many.
    const { status, out, err } = await run('--device', 'cuda', '--device-index', '63', '--json');
    expect(status).toBe(1);
    expect(err).toMatch(/^readonce doctor: Expected device cuda/);
    const printed: DoctorReport = JSON.parse(out);
    expect(printed).toMatchObject({
      ok: false,
      device: { configured: { device: 'cuda', deviceIndex: 63 }, auto: 'cpu', runs: null },
    });
    expect(printed.cuda.filter(({ ok, fix }) => ok === (fix !== undefined))).toEqual([]);
  });

  it('ends with status 2 for a wrong setting', async () => {
    const { status, err } = await run('--device', 'tpu');
    expect(status).toBe(2);
    expect(err).toMatch(/--device .*auto, cpu, cuda/);
  });
});
