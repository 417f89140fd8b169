import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { denseGraph } from '../../src/graph/dense-graph.ts';
import { raggedGraph } from '../../src/graph/ragged-graph.ts';
import { randomModel, type TinyModel } from '../support/tiny-model.ts';

/** As much of onnx.proto as these tests look at. */
const modelProto = protobuf
  .parse(
    `syntax = "proto3";
  message Entry { string key = 1; string value = 2; }
  message Tensor { string name = 8; bytes raw_data = 9; repeated Entry external_data = 13; }
  message Attribute { string name = 1; int64 i = 3; }
  message Node {
    repeated string input = 1;
    repeated string output = 2;
    string op_type = 4;
    repeated Attribute attribute = 5;
    string domain = 7;
  }
  message Value { string name = 1; }
  message Graph {
    repeated Node node = 1;
    repeated Tensor initializer = 5;
    repeated Value input = 11;
    repeated Value output = 12;
  }
  message OperatorSet { string domain = 1; int64 version = 2; }
  message Model { int64 ir_version = 1; Graph graph = 7; repeated OperatorSet opset_import = 8; }`,
    { keepCase: true },
  )
  .root.lookupType('Model');

interface Named {
  readonly name: string;
}

interface Decoded {
  readonly ir_version: number;
  readonly opset_import: readonly { readonly domain: string; readonly version: number }[];
  readonly graph: {
    readonly node: readonly {
      readonly input: readonly string[];
      readonly output: readonly string[];
      readonly op_type: string;
      readonly attribute: readonly { readonly name: string; readonly i: number }[];
    }[];
    readonly initializer: readonly (Named & {
      readonly raw_data: Uint8Array;
      readonly external_data: readonly { readonly key: string; readonly value: string }[];
    })[];
    readonly input: readonly Named[];
    readonly output: readonly Named[];
  };
}

function decode(bytes: Uint8Array): Decoded {
  const options = { longs: Number, defaults: true, arrays: true };
  return modelProto.toObject(modelProto.decode(bytes), options) as Decoded;
}

const shape = {
  layers: 3,
  queryHeads: 6,
  kvHeads: 2,
  headDim: 16,
  hiddenSize: 32,
  feedForwardSize: 48,
  vocabSize: 50,
  attentionBias: false,
  feedForwardBias: false,
  tiedHead: true,
  ropeScaling: null,
  seed: 6,
};

let folder: string;
let source: TinyModel;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'readonce-graph-'));
  source = randomModel(folder, shape);
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

const graphs: readonly (readonly [string, () => Uint8Array])[] = [
  ['dense', () => denseGraph(source, { score: false, predict: false })],
  ['dense with scores', () => denseGraph(source, { score: true, predict: false })],
  ['dense with predictions', () => denseGraph(source, { score: true, predict: true })],
  ['ragged', () => raggedGraph(source, { slots: 1 })],
  ['ragged of four slots', () => raggedGraph(source, { slots: 4 })],
];

function operators({ graph }: Decoded, name: string) {
  return graph.node.filter((node) => node.op_type === name);
}

describe.each(graphs)('the graph %s', (_, author) => {
  it('is of the versions that were verified', () => {
    const { ir_version: irVersion, opset_import: opsets } = decode(author());
    expect(irVersion).toBe(10);
    expect(opsets).toEqual([
      { domain: '', version: 21 },
      { domain: 'com.microsoft', version: 1 },
    ]);
  });

  it('defines every value once and before it is used', () => {
    const { graph } = decode(author());
    const given = [...graph.input, ...graph.initializer].map(({ name }) => name);
    // '' stands for an optional input that is left off.
    const known = new Set(['', ...given]);
    for (const { input, output } of graph.node) {
      expect(input.filter((name) => !known.has(name))).toEqual([]);
      for (const name of output.filter((value) => value !== '')) {
        expect(known.has(name)).toBe(false);
        known.add(name);
      }
    }
    expect(graph.output.filter(({ name }) => !known.has(name))).toEqual([]);
  });

  it('refers to weights in their file and holds none', () => {
    const { graph } = decode(author());
    const external = graph.initializer.filter((tensor) => tensor.external_data.length > 0);
    expect(external.length).toBeGreaterThan(20);
    for (const { name, raw_data: data, external_data: entries } of external) {
      const ref = source.tensors.get(name);
      expect(data).toHaveLength(0);
      expect(Object.fromEntries(entries.map(({ key, value }) => [key, value]))).toEqual({
        location: 'model.safetensors',
        offset: String(ref?.offsetBytes),
        length: String(ref?.sizeBytes),
      });
    }
    const own = graph.initializer.filter((tensor) => tensor.external_data.length === 0);
    const weights = own.filter(({ name }) => source.tensors.has(name));
    expect(weights).toEqual([]);
  });
});

describe('the dense graph', () => {
  it('attends with all heads of a layer at once, over a cache bound as past and present', () => {
    const decoded = decode(denseGraph(source, { score: false, predict: false }));
    const attentions = operators(decoded, 'GroupQueryAttention');
    expect(attentions).toHaveLength(3);
    for (const [layer, { input, output, attribute }] of attentions.entries()) {
      expect(input.slice(3, 5)).toEqual([`past_key.${layer}`, `past_value.${layer}`]);
      expect(output.slice(1)).toEqual([`present_key.${layer}`, `present_value.${layer}`]);
      const values = Object.fromEntries(attribute.map(({ name, i }) => [name, i]));
      expect(values).toEqual({ num_heads: 6, kv_num_heads: 2, do_rotary: 0 });
    }
  });

  it('computes the LM head only for predictions, and scores only when asked', () => {
    const named = (score: boolean, predict: boolean) => {
      const decoded = decode(denseGraph(source, { score, predict }));
      const outputs = decoded.graph.output.map(({ name }) => name);
      return {
        scores: outputs.filter((name) => name.startsWith('scores.')),
        predictions: outputs.includes('predictions'),
        argMax: operators(decoded, 'ArgMax').length,
        softmax: operators(decoded, 'Softmax').length,
      };
    };
    const { layers, kvHeads } = source.config;
    const scores = ['scores.0', 'scores.1', 'scores.2'];
    expect(named(false, false)).toEqual({ scores: [], predictions: false, argMax: 0, softmax: 0 });
    expect(named(true, false)).toEqual({
      scores,
      predictions: false,
      argMax: 0,
      softmax: layers * kvHeads,
    });
    expect(named(true, true)).toEqual({
      scores,
      predictions: true,
      argMax: 1,
      softmax: layers * kvHeads,
    });
  });
});

describe('the ragged graph', () => {
  it.each([1, 2, 8])('gives each KV head of %d slots a cache and a length of its own', (slots) => {
    const decoded = decode(raggedGraph(source, { slots }));
    const attentions = operators(decoded, 'GroupQueryAttention');
    expect(attentions).toHaveLength(slots * 3 * 2);
    const caches = attentions.map(({ input }) => input[3]);
    const lengths = attentions.map(({ input }) => input[5]);
    expect(new Set(caches).size).toBe(attentions.length);
    expect(new Set(lengths).size).toBe(attentions.length);
    for (const { attribute } of attentions) {
      const values = Object.fromEntries(attribute.map(({ name, i }) => [name, i]));
      expect(values).toMatchObject({ num_heads: 3, kv_num_heads: 1 });
    }
    expect(decoded.graph.input.some(({ name }) => name === 'slot_tokens')).toBe(slots > 1);
  });
});
