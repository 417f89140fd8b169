import { tmpdir } from 'node:os';
import { parseArgs } from 'node:util';
import { resolvePrecision } from '../../../src/compression/registry.ts';
import type { Precision } from '../../../src/core/precision.ts';
import { benchModels, type BenchModel } from './shapes.ts';

/** Parts in the order they run. */
export const partNames = ['decode', 'dense', 'memory', 'load', 'ttft', 'ingest'] as const;
/** What is measured of a model. */
export type PartName = (typeof partNames)[number];

/** What is measured, on what. */
export interface GpuBenchOptions {
  readonly models: readonly BenchModel[];
  readonly parts: readonly PartName[];
  /** Folder of `bench_kvpress.py scores`: its scores are compared, and nothing else is done. */
  readonly peer: string | undefined;
  readonly tokens: number;
  /** The precision of stored contexts. */
  readonly stored: Precision;
  readonly deviceIndex: number;
  /** JSON of all figures; undefined: none is written. */
  readonly out: string | undefined;
  /** For files that are made and removed. */
  readonly folder: string;
}

/** How the program is called. */
export const usage =
  `node dist/test/gpu/bench-runtime.js [--model ${Object.keys(benchModels).join(',')}] ` +
  `[--only ${partNames.join(',')}] [--layers N] [--tokens N] [--device N] [--folder FOLDER] ` +
  '[--stored PRECISION] [--out FILE] | --peer FOLDER [--device N] [--out FILE]';

const text = { type: 'string' } as const;

/** Throws an error that says how the program is called. */
export function parseGpuBenchOptions(args: readonly string[]): GpuBenchOptions {
  const { values } = parseArgs({
    args: [...args],
    options: {
      model: { ...text, default: 'qwen' },
      only: text,
      peer: text,
      layers: text,
      tokens: { ...text, default: '32768' },
      stored: { ...text, default: 'f16' },
      device: { ...text, default: '0' },
      folder: { ...text, default: tmpdir() },
      out: text,
    },
  });
  const only = values.only?.split(',');
  for (const name of only ?? []) {
    if (partNames.some((known) => known === name)) continue;
    throw new Error(`Expected "${usage}" but got --only ${name}`);
  }
  const layers = values.layers === undefined ? undefined : Number(values.layers);
  return {
    models: values.model.split(',').map((name) => modelOf(name, layers)),
    parts: partNames.filter((name) => only?.includes(name) ?? true),
    peer: values.peer,
    tokens: Number(values.tokens),
    stored: resolvePrecision(values.stored),
    deviceIndex: Number(values.device),
    out: values.out,
    folder: values.folder,
  };
}

/** Some of a model's layers are for a first look, and named so. */
function modelOf(name: string, layers: number | undefined): BenchModel {
  const model = benchModels[name];
  if (model === undefined) throw new Error(`Expected "${usage}" but got --model ${name}`);
  if (layers === undefined) return model;
  return { name: `${model.name}, ${layers} layers`, config: { ...model.config, layers } };
}
