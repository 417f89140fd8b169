/**
 * The CUDA runtime on the shapes of real models, with random weights: markdown on stdout, progress
 * on stderr, the figures in a JSON file.
 *
 *     node dist/test/gpu/bench-runtime.js --model qwen --only decode,dense --out bench-gpu.json
 */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { checksTable } from '../../eval/check.ts';
import { describeMachine, machineLine } from '../../eval/machine.ts';
import { markdownTable, type Table } from '../../eval/markdown.ts';
import type { PartReport } from '../../eval/part.ts';
import { createCudaRuntime } from '../../src/runtime/cuda/cuda-runtime.ts';
import type { Bench, BenchPart, Rates } from './bench/bench.ts';
import { Card, StepTimer } from './bench/card.ts';
import { decodePart } from './bench/decode-part.ts';
import { densePart } from './bench/dense-part.ts';
import { ingestPart } from './bench/ingest-part.ts';
import { loadPart } from './bench/load-part.ts';
import { memoryPart } from './bench/memory-part.ts';
import { parseGpuBenchOptions, type GpuBenchOptions, type PartName } from './bench/options.ts';
import { peerPart } from './bench/peer-part.ts';
import { randomSource } from './bench/random-source.ts';
import type { BenchModel } from './bench/shapes.ts';
import { ttftPart } from './bench/ttft-part.ts';

const parts: Readonly<Record<PartName, BenchPart>> = {
  decode: decodePart,
  dense: densePart,
  memory: memoryPart,
  load: loadPart,
  ttft: ttftPart,
  ingest: ingestPart,
};

const startMs = performance.now();

function progress(text: string): void {
  const seconds = (performance.now() - startMs) / 1000;
  process.stderr.write(`[${seconds.toFixed(1).padStart(6)} s] ${text}\n`);
}

/** Prints reports as they come and keeps them: a run that is cut short leaves what it measured. */
class Results {
  readonly #out: string | undefined;
  readonly #results: Record<string, unknown> = {};
  failed = 0;

  constructor(out: string | undefined) {
    this.#out = out;
  }

  add(name: string, { title, explanation, tables, checks, data }: PartReport): void {
    const all = checks.length === 0 ? tables : [...tables, checksTable(checks)];
    console.log([`## ${title}\n`, `${explanation}\n`, ...all.map(markdownTable)].join('\n'));
    this.note(name, { title, checks, data });
  }

  /** A part that fails leaves the others alone. */
  fail(name: string, error: unknown): void {
    this.failed++;
    const reason = error instanceof Error ? (error.stack ?? error.message) : String(error);
    console.log(`## ${name} FAILED\n\n${reason}\n`);
    this.note(name, { failed: reason });
  }

  /** Keeps what is printed elsewhere. */
  note(name: string, result: unknown): void {
    this.#results[name] = result;
    if (this.#out === undefined) return;
    mkdirSync(dirname(this.#out), { recursive: true });
    writeFileSync(this.#out, `${JSON.stringify(this.#results, undefined, 1)}\n`);
  }
}

function ratesTable({ copyBytes, matrixFlops, hostBytes }: Rates): Table {
  return {
    title: 'What the card does at best, in this run',
    headers: ['copy on the card, GB/s read and written', '8192³ float16, TFLOP/s', 'to it, GB/s'],
    rows: [
      [(copyBytes / 1e9).toFixed(0), (matrixFlops / 1e12).toFixed(0), (hostBytes / 1e9).toFixed(1)],
    ],
  };
}

interface ModelRun {
  readonly model: BenchModel;
  readonly card: Card;
  readonly rates: Rates;
  readonly folder: string;
  readonly results: Results;
}

async function benchModel(options: GpuBenchOptions, run: ModelRun): Promise<void> {
  const { model, card, rates, folder, results } = run;
  const source = randomSource(folder, model.config);
  progress(`${model.name}: weights made`);
  const timer = new StepTimer();
  const freeBytes = card.freeBytes();
  const runtime = createCudaRuntime(source, {
    deviceIndex: options.deviceIndex,
    // Only addresses are taken beforehand: what fits is the card's to say.
    poolBytes: card.device.totalBytes,
    precision: 'f16',
    // As the server has it.
    maxRunning: 16,
    launchCall: timer.launch,
  });
  const usedBytes = freeBytes - card.freeBytes();
  progress(`${model.name}: runtime made, ${(usedBytes / 1e9).toFixed(1)} GB of device memory`);
  runtime.warm();
  progress(`${model.name}: warm`);
  const probe = runtime.createDense(1);
  const bench: Bench = {
    model,
    runtime,
    card: {
      freeBytes: () => card.freeBytes(),
      contextBytes: (layout, lengths) => card.contextBytes(layout, lengths),
      fill: (context) => card.fill(context),
      timeSteps: (work) => timer.time(work),
      // Reading a row back waits for everything ahead of it.
      settle: () => void probe.keys(0, 0, 1),
    },
    rates,
    tokens: options.tokens,
    stored: options.stored,
    folder,
    progress,
  };
  for (const name of options.parts) {
    const key = `${model.name}: ${name}`;
    progress(key);
    try {
      results.add(key, await parts[name](bench));
    } catch (error) {
      results.fail(key, error);
    }
  }
  probe.close();
  runtime.close();
}

async function benchPeer({ deviceIndex }: GpuBenchOptions, peer: string, results: Results) {
  try {
    results.add('peer', await peerPart({ folder: peer, deviceIndex, progress }));
  } catch (error) {
    results.fail('peer', error);
  }
}

async function benchModels(options: GpuBenchOptions, results: Results): Promise<void> {
  const card = new Card(options.deviceIndex);
  const folder = mkdtempSync(join(options.folder, 'readonce-gpu-bench-'));
  try {
    const { name, driverVersion } = card.device;
    const rates = card.rates();
    console.log(`${name}, driver for CUDA ${driverVersion}\n`);
    console.log(markdownTable(ratesTable(rates)));
    results.note('card', { name, driverVersion, rates });
    for (const model of options.models) {
      try {
        await benchModel(options, { model, card, rates, folder, results });
      } catch (error) {
        results.fail(model.name, error);
      }
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
    card.close();
  }
}

async function main(options: GpuBenchOptions): Promise<number> {
  const machine = describeMachine();
  console.log(`${machineLine(machine)}\n`);
  const results = new Results(options.out);
  results.note('machine', machine);
  if (options.peer === undefined) await benchModels(options, results);
  else await benchPeer(options, options.peer, results);
  progress('done');
  return results.failed;
}

process.exitCode = (await main(parseGpuBenchOptions(process.argv.slice(2)))) === 0 ? 0 : 1;
