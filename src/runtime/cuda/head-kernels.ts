import type { KernelLauncher } from './kernel-module.ts';
import type { LaunchStream, ModelType } from './kernel-shapes.ts';

/** Hidden states times the LM head. */
export interface LogitsOptions {
  readonly type: ModelType;
  /** `[rows, inputs]`; inputs a multiple of 32. */
  readonly hidden: bigint;
  /** `[outputs, inputs]` */
  readonly matrix: bigint;
  /** f32 `[rows, outputs]`, out. */
  readonly out: bigint;
  readonly rows: number;
  readonly inputs: number;
  readonly outputs: number;
}

/** Where each row's largest logit is. */
export interface LargestOptions {
  /** f32 `[rows, outputs]` */
  readonly logits: bigint;
  /** int32 `[rows]`, out: the first of equal ones; −1 where there is no number. */
  readonly out: bigint;
  readonly rows: number;
  readonly outputs: number;
}

/** Numbers to be rounded to another type. */
export interface ConvertOptions {
  readonly from: 'f32' | 'f16' | 'bf16';
  readonly to: ModelType;
  /** `[count]` of `from`. */
  readonly source: bigint;
  /** `[count]` of `to`, out. */
  readonly target: bigint;
  readonly count: number;
}

/** The LM head, and weights on their way to the device. */
export interface HeadKernels {
  logits(stream: LaunchStream, options: LogitsOptions): void;
  largest(stream: LaunchStream, options: LargestOptions): void;
  convert(stream: LaunchStream, options: ConvertOptions): void;
}

const threads = 256;
const largestThreads = 1024;
/** Outputs and rows of one thread block of `logits`. */
const blockOutputs = 256;
const blockRows = 16;
/** Blocks that fill any card; each goes on with what is left. */
const mostConvertBlocks = 4096;

/** The kernels of `head.cu` and `convert.cu`. */
export function headKernels(launcher: KernelLauncher): HeadKernels {
  return {
    logits: (stream, o) => {
      launcher.launch(
        `logits_${o.type}`,
        {
          stream,
          grid: [Math.ceil(o.outputs / blockOutputs), Math.ceil(o.rows / blockRows)],
          threads,
        },
        [o.hidden, o.matrix, o.out, o.rows, o.inputs, o.outputs],
      );
    },
    largest: (stream, o) => {
      launcher.launch('largest', { stream, grid: o.rows, threads: largestThreads }, [
        o.logits,
        o.out,
        o.outputs,
      ]);
    },
    convert: (stream, o) => {
      const grid = Math.min(Math.ceil(o.count / threads), mostConvertBlocks);
      launcher.launch(`convert_${o.from}_${o.to}`, { stream, grid, threads }, [
        o.source,
        o.target,
        BigInt(o.count),
      ]);
    },
  };
}
