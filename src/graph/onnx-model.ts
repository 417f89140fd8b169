import protobuf from 'protobufjs';
import { assert } from '../core/assert.ts';
import type { TensorRef } from '../model/checkpoint.ts';

/** The part of the ONNX schema that we author (field numbers from onnx.proto, IR version 10). */
const schema = `
syntax = "proto3";
message EntryProto { string key = 1; string value = 2; }
message TensorProto {
  repeated int64 dims = 1 [packed = true];
  int32 data_type = 2;
  string name = 8;
  bytes raw_data = 9;
  repeated EntryProto external_data = 13;
  int32 data_location = 14;
}
message AttributeProto {
  string name = 1;
  optional float f = 2;
  optional int64 i = 3;
  optional bytes s = 4;
  repeated int64 ints = 8 [packed = true];
  int32 type = 20;
}
message NodeProto {
  repeated string input = 1;
  repeated string output = 2;
  string name = 3;
  string op_type = 4;
  repeated AttributeProto attribute = 5;
  string domain = 7;
}
message DimensionProto { optional int64 dim_value = 1; optional string dim_param = 2; }
message ShapeProto { repeated DimensionProto dim = 1; }
message TensorTypeProto { int32 elem_type = 1; ShapeProto shape = 2; }
message TypeProto { TensorTypeProto tensor_type = 1; }
message ValueInfoProto { string name = 1; TypeProto type = 2; }
message GraphProto {
  repeated NodeProto node = 1;
  string name = 2;
  repeated TensorProto initializer = 5;
  repeated ValueInfoProto input = 11;
  repeated ValueInfoProto output = 12;
}
message OperatorSetIdProto { string domain = 1; int64 version = 2; }
message ModelProto {
  int64 ir_version = 1;
  string producer_name = 2;
  GraphProto graph = 7;
  repeated OperatorSetIdProto opset_import = 8;
}`;
const modelProto = protobuf.parse(schema, { keepCase: true }).root.lookupType('ModelProto');

/** ONNX's numbers for the element types we use. */
export const onnxType = {
  float32: 1,
  uint8: 2,
  int32: 6,
  int64: 7,
  bool: 9,
  float16: 10,
  bfloat16: 16,
} as const;
/** An element type of tensors, by our name for it. */
export type OnnxType = keyof typeof onnxType;

/** A dimension: fixed, named (equal wherever the name stands), or unknown (null). */
export type Dimension = number | string | null;

/** A number is an int attribute; floats are marked, since JS cannot tell 1 from 1.0. */
export type Attribute = number | string | readonly number[] | { readonly float: number };

/** What of a node may be left out: no attributes, one fresh output, ONNX's own domain. */
export interface NodeOptions {
  readonly attributes?: Readonly<Record<string, Attribute>>;
  /** Output names; '' leaves an optional output off. Default: one fresh name. */
  readonly outputs?: readonly string[];
  /** Operators of ONNX Runtime's own domain. */
  readonly microsoft?: boolean;
}

const attributeType = { float: 1, int: 2, string: 3, ints: 7 } as const;

function attributeMessage(name: string, value: Attribute): object {
  if (typeof value === 'number') return { name, i: value, type: attributeType.int };
  if (typeof value === 'string') {
    return { name, s: Buffer.from(value), type: attributeType.string };
  }
  if ('float' in value) return { name, f: value.float, type: attributeType.float };
  return { name, ints: value, type: attributeType.ints };
}

function valueInfo(name: string, type: OnnxType, dims: readonly Dimension[]): object {
  const dim = dims.map((d) =>
    typeof d === 'number' ? { dim_value: d } : d === null ? {} : { dim_param: d },
  );
  return { name, type: { tensor_type: { elem_type: onnxType[type], shape: { dim } } } };
}

/**
 * Writes one ONNX graph, node by node in execution order. Names are values; methods return the
 * names they define, so that building a graph reads like the computation.
 */
export class OnnxModel {
  readonly #nodes: object[] = [];
  readonly #initializers = new Map<string, object>();
  readonly #inputs: object[] = [];
  readonly #outputs: object[] = [];
  #names = 0;

  /** A value name not used before. */
  fresh(stem: string): string {
    return `${stem}.${this.#names++}`;
  }

  input(name: string, type: OnnxType, dims: readonly Dimension[]): string {
    this.#inputs.push(valueInfo(name, type, dims));
    return name;
  }

  output(name: string, type: OnnxType, dims: readonly Dimension[]): string {
    this.#outputs.push(valueInfo(name, type, dims));
    return name;
  }

  /** A weight as external data: the runtime maps the bytes where they lie. */
  weight(tensor: TensorRef, location: string): string {
    if (!this.#initializers.has(tensor.name)) {
      this.#initializers.set(tensor.name, {
        dims: tensor.shape,
        data_type: onnxType[tensor.type ?? 'float32'],
        name: tensor.name,
        external_data: [
          { key: 'location', value: location },
          { key: 'offset', value: String(tensor.offsetBytes) },
          { key: 'length', value: String(tensor.sizeBytes) },
        ],
        data_location: 1,
      });
    }
    return tensor.name;
  }

  /** A constant inside the model file; the same `name` is written once. */
  constant(name: string, data: Float32Array | BigInt64Array, dims: readonly number[]): string {
    if (!this.#initializers.has(name)) {
      this.#initializers.set(name, {
        dims,
        data_type: data instanceof Float32Array ? onnxType.float32 : onnxType.int64,
        name,
        raw_data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength),
      });
    }
    return name;
  }

  /** An int64 vector constant, as shapes, axes and split sizes need. */
  integers(...values: readonly number[]): string {
    const data = BigInt64Array.from(values, BigInt);
    return this.constant(`integers[${values.join(',')}]`, data, [values.length]);
  }

  /** Adds a node and returns its first output. */
  node(operator: string, inputs: readonly string[], options: NodeOptions = {}): string {
    const outputs = options.outputs ?? [this.fresh(operator)];
    this.#nodes.push({
      input: inputs,
      output: outputs,
      name: this.fresh(`node.${operator}`),
      op_type: operator,
      attribute: Object.entries(options.attributes ?? {}).map(([name, value]) =>
        attributeMessage(name, value),
      ),
      domain: options.microsoft === true ? 'com.microsoft' : '',
    });
    const first = outputs[0];
    assert(first !== undefined, 'a node has at least one output');
    return first;
  }

  /** Splits `value` along `axis` into pieces of the given sizes (a name: an int64 input). */
  split(value: string, axis: number, sizes: string, pieces: number): readonly string[] {
    if (pieces === 1) return [value];
    const outputs = Array.from({ length: pieces }, () => this.fresh('piece'));
    this.node('Split', [value, sizes], { attributes: { axis }, outputs });
    return outputs;
  }

  /** The model as a protobuf file. */
  encode(): Uint8Array {
    return modelProto
      .encode(
        modelProto.fromObject({
          ir_version: 10,
          producer_name: 'readonce',
          graph: {
            node: this.#nodes,
            name: 'decoder',
            initializer: [...this.#initializers.values()],
            input: this.#inputs,
            output: this.#outputs,
          },
          opset_import: [
            { domain: '', version: 21 },
            { domain: 'com.microsoft', version: 1 },
          ],
        }),
      )
      .finish();
  }
}
