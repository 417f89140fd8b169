import { readFileSync } from 'node:fs';
import { defined } from '../../src/core/assert.ts';
import { ropeTables } from '../../src/model/rope.ts';
import type { TinyModel } from './tiny-model.ts';

type Vector = readonly number[];
type Matrix = readonly Vector[];

/** The pairs that one KV head holds before the first token of a run. */
export interface NaiveHead {
  readonly keys: Matrix;
  readonly values: Matrix;
}

/** Everything a run computed, one entry a token. Heads are numbered `layer · heads + head`. */
export interface NaiveRun {
  readonly logits: Matrix;
  /** Post-RoPE queries of the tokens, by query head. */
  readonly queries: readonly Matrix[];
  /** Post-RoPE keys of the tokens, by KV head. */
  readonly keys: readonly Matrix[];
  readonly values: readonly Matrix[];
}

export interface NaiveInput {
  readonly ids: Iterable<number>;
  readonly startPosition: number;
  /** By KV head; undefined: empty. */
  readonly context?: readonly NaiveHead[];
}

/**
 * The textbook decoder, one token and one head after another on lists of numbers: an oracle that
 * shares nothing with the runtimes but the rotary tables.
 */
export function naiveDecoder(model: TinyModel): (input: NaiveInput) => NaiveRun {
  const { config } = model;
  const rope = ropeTables(config);
  const group = config.queryHeads / config.kvHeads;
  const half = config.headDim / 2;
  const weights = new Map([...model.tensors.keys()].map((name) => [name, readTensor(model, name)]));
  const tensor = (name: string): Matrix => defined(weights.get(name), name);
  const linear = (name: string, x: Vector): Vector => {
    const bias = weights.get(`${name}.bias`)?.[0];
    return tensor(`${name}.weight`).map((row, i) => scalarProduct(row, x) + (bias?.[i] ?? 0));
  };
  const norm = (name: string, x: Vector): Vector => {
    const scale = 1 / Math.sqrt(scalarProduct(x, x) / x.length + config.rmsEpsilon);
    return x.map((value, i) => value * scale * at(tensor(`${name}.weight`)[0], i));
  };
  const rotated = (x: Vector, position: number): Vector =>
    x.map((value, i) => {
      const place = position * half + (i % half);
      const partner = i < half ? -at(x, i + half) : at(x, i - half);
      return value * at(rope.cos, place) + partner * at(rope.sin, place);
    });
  const heads = (x: Vector): Matrix =>
    Array.from({ length: x.length / config.headDim }, (_, head) =>
      x.slice(head * config.headDim, (head + 1) * config.headDim),
    );

  return ({ ids, startPosition, context = [] }) => {
    const logits: Vector[] = [];
    const queries = lists(config.layers * config.queryHeads);
    const keys = lists(config.layers * config.kvHeads);
    const values = lists(config.layers * config.kvHeads);
    let position = startPosition;
    for (const id of ids) {
      let hidden = at(tensor('model.embed_tokens.weight'), id);
      for (let layer = 0; layer < config.layers; layer++) {
        const name = `model.layers.${layer}`;
        const x = norm(`${name}.input_layernorm`, hidden);
        heads(linear(`${name}.self_attn.k_proj`, x)).forEach((key, head) => {
          at(keys, layer * config.kvHeads + head).push(rotated(key, position));
        });
        heads(linear(`${name}.self_attn.v_proj`, x)).forEach((value, head) => {
          at(values, layer * config.kvHeads + head).push(value);
        });
        const attended = heads(linear(`${name}.self_attn.q_proj`, x)).flatMap((head, index) => {
          const query = rotated(head, position);
          at(queries, layer * config.queryHeads + index).push(query);
          const kvHead = layer * config.kvHeads + Math.floor(index / group);
          const before = context[kvHead] ?? { keys: [], values: [] };
          const attention = softmax(
            [...before.keys, ...at(keys, kvHead)].map(
              (key) => scalarProduct(query, key) / Math.sqrt(config.headDim),
            ),
          );
          return weightedSum(attention, [...before.values, ...at(values, kvHead)]);
        });
        hidden = sum(hidden, linear(`${name}.self_attn.o_proj`, attended));
        const y = norm(`${name}.post_attention_layernorm`, hidden);
        const up = linear(`${name}.mlp.up_proj`, y);
        const gated = linear(`${name}.mlp.gate_proj`, y).map(
          (gate, i) => (gate / (1 + Math.exp(-gate))) * at(up, i),
        );
        hidden = sum(hidden, linear(`${name}.mlp.down_proj`, gated));
      }
      const head = config.tiedHead ? 'model.embed_tokens' : 'lm_head';
      logits.push(linear(head, norm('model.norm', hidden)));
      position++;
    }
    return { logits, queries, keys, values };
  };
}

/** exp(x) over its sum. */
export function softmax(x: Vector): Vector {
  const largest = Math.max(...x);
  const exponentials = x.map((value) => Math.exp(value - largest));
  const total = exponentials.reduce((partial, value) => partial + value, 0);
  return exponentials.map((value) => value / total);
}

export function scalarProduct(a: Vector, b: Vector): number {
  return a.reduce((partial, value, i) => partial + value * at(b, i), 0);
}

/** The i-th element, which must exist. */
export function at<T>(values: ArrayLike<T> | undefined, i: number): T {
  return defined(values?.[i], `element ${i}`);
}

function sum(a: Vector, b: Vector): Vector {
  return a.map((value, i) => value + at(b, i));
}

function weightedSum(weights: Vector, rows: Matrix): Vector {
  return at(rows, 0).map((_, i) =>
    weights.reduce((partial, weight, row) => partial + weight * at(at(rows, row), i), 0),
  );
}

function lists(count: number): Vector[][] {
  return Array.from({ length: count }, () => []);
}

/** Rows of a matrix; a vector is a matrix of one row. */
function readTensor(model: TinyModel, name: string): Matrix {
  const ref = defined(model.tensors.get(name), name);
  const bytes = readFileSync(ref.file).subarray(ref.offsetBytes, ref.offsetBytes + ref.sizeBytes);
  const columns = at(ref.shape, ref.shape.length - 1);
  return Array.from({ length: ref.sizeBytes / 4 / columns }, (_, row) =>
    Array.from({ length: columns }, (__, i) => bytes.readFloatLE((row * columns + i) * 4)),
  );
}
