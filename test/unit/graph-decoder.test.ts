import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import protobuf from 'protobufjs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { denseGraph, type DenseGraphOptions } from '../../src/graph/dense-graph.ts';
import { contextGraph, queryGraph } from '../../src/graph/query-graph.ts';
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

/** All layers, unless said otherwise. */
function dense(options: Partial<DenseGraphOptions>): Uint8Array {
  const layers = { from: 0, to: source.config.layers };
  return denseGraph(source, { score: false, predict: false, layers, ...options });
}

const graphs: readonly (readonly [string, () => Uint8Array])[] = [
  ['dense', () => dense({})],
  ['dense with scores', () => dense({ score: true })],
  ['dense with predictions', () => dense({ score: true, predict: true })],
  ['query, first stage', () => queryGraph(source, { stage: 0 })],
  ['query, a stage between layers', () => queryGraph(source, { stage: 2 })],
  ['query, last stage', () => queryGraph(source, { stage: 3 })],
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
    expect(external.length).toBeGreaterThan(4);
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
    const decoded = decode(dense({}));
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
      const decoded = decode(dense({ score, predict }));
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

describe('the dense graph of some layers', () => {
  const names = (values: readonly Named[], pattern: RegExp): readonly string[] =>
    values.map(({ name }) => name).filter((name) => pattern.test(name));
  const state = /^(residual|normalized)/;

  it('takes up the state that the layers before left, and leaves it to those behind', () => {
    const [first, middle, last] = [
      { from: 0, to: 1 },
      { from: 1, to: 2 },
      { from: 2, to: 3 },
    ].map((layers) => decode(dense({ score: true, layers })).graph);
    expect(names(first?.input ?? [], state)).toEqual([]);
    expect(names(first?.input ?? [], /^input_ids$/)).toHaveLength(1);
    expect(names(first?.output ?? [], state)).toEqual(['residual_out', 'normalized_out']);
    expect(names(middle?.input ?? [], state)).toEqual(['residual', 'normalized']);
    expect(names(middle?.input ?? [], /^input_ids$/)).toEqual([]);
    expect(names(middle?.output ?? [], state)).toEqual(['residual_out', 'normalized_out']);
    expect(names(last?.input ?? [], state)).toEqual(['residual', 'normalized']);
    expect(names(last?.output ?? [], state)).toEqual([]);
  });

  it('has the caches and scores of these layers alone', () => {
    const { input, output } = decode(dense({ score: true, layers: { from: 1, to: 3 } })).graph;
    expect(names(input, /^past_key/)).toEqual(['past_key.1', 'past_key.2']);
    expect(names(output, /^present_value/)).toEqual(['present_value.1', 'present_value.2']);
    expect(names(output, /^scores/)).toEqual(['scores.1', 'scores.2']);
  });

  it('predicts with the last layer only', () => {
    const predictions = (from: number, to: number): readonly string[] =>
      names(decode(dense({ predict: true, layers: { from, to } })).graph.output, /^predictions$/);
    expect(predictions(0, 2)).toEqual([]);
    expect(predictions(2, 3)).toEqual(['predictions']);
  });
});

describe('the query graphs', () => {
  const graphOf = (stage: number) => decode(queryGraph(source, { stage }));
  const names = (values: readonly Named[]): readonly string[] => values.map(({ name }) => name);

  it('hand the state and the attention of each layer from one to the next', () => {
    const { layers } = source.config;
    for (let stage = 1; stage <= layers; stage++) {
      const given = names(graphOf(stage - 1).graph.output)
        .filter((name) => name.endsWith('_out') && !/^tail_(key|value)/.test(name))
        .map((name) => name.replace(/_out$/, ''));
      expect(given).toEqual(['residual', 'tail_output', 'tail_largest', 'tail_share']);
      expect(names(graphOf(stage).graph.input)).toEqual(expect.arrayContaining(given));
    }
  });

  it('attend to the tails of all requests at once, in each layer', () => {
    const attentions = [0, 1, 2].map((stage) => operators(graphOf(stage), 'GroupQueryAttention'));
    for (const nodes of attentions) {
      expect(nodes).toHaveLength(1);
      expect(nodes[0]?.input.slice(3, 5)).toEqual(['tail_key', 'tail_value']);
      expect(nodes[0]?.output.slice(1, 3)).toEqual(['tail_key_out', 'tail_value_out']);
    }
    expect(operators(graphOf(3), 'GroupQueryAttention')).toEqual([]);
  });

  it('compute logits in the last one alone', () => {
    const logits = [0, 1, 2, 3].map((stage) =>
      names(graphOf(stage).graph.output).includes('logits'),
    );
    expect(logits).toEqual([false, false, false, true]);
  });
});

describe('the graph of a context', () => {
  it('reads each KV head in one product, and holds nothing of the model', () => {
    const decoded = decode(contextGraph(source.config));
    const inputs = decoded.graph.input.map(({ name }) => name);
    const factors = operators(decoded, 'FusedMatMul').map(({ input }) => input[1] ?? '');
    expect(factors).toEqual(['key.0', 'key.1']);
    expect(inputs).toEqual(expect.arrayContaining([...factors, 'value.0', 'value.1', 'absent']));
    expect(decoded.graph.initializer.filter((each) => each.external_data.length > 0)).toEqual([]);
  });
});
