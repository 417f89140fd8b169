import { readdir, stat } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { ReadonceError } from '../core/errors.ts';
import { BpeTokenizer } from './bpe-tokenizer.ts';
import { createPromptTemplate } from './chat-template.ts';
import type { Checkpoint, DecodeWeights, FourBitLinear } from './checkpoint.ts';
import type { ModelConfig } from './config.ts';
import { embeddedFolder, embeddedModels } from './embedded.ts';
import { modelFingerprint, weightsDigest } from './fingerprint.ts';
import { openFourBitWeights } from './four-bit-weights.ts';
import { readGguf } from './gguf.ts';
import { downloadCheckpoint, downloadedFolder, isHubId } from './hub.ts';
import { isHfFolder, readHfFolder } from './hf-folder.ts';
import type { ModelLog } from './log.ts';
import type { CheckpointSource } from './source.ts';
import { openWeights, type WeightsOptions } from './weights.ts';

/** Which model, and where what is made of its files is kept. */
export interface LoadOptions {
  /**
   * An embedded model (`reader`, `reader-mini`), a folder (Hugging Face's layout, or one that holds
   * one GGUF file), a GGUF file, or `owner/name` of the Hugging Face hub, which is downloaded once.
   */
  readonly model: string;
  /** For converted weights and downloads; outside the store. */
  readonly cacheFolder: string;
  /** Default `f32`. */
  readonly decodeWeights?: DecodeWeights | undefined;
  /**
   * Whether the runtime for such a model takes 16-bit weights as they lie: those are not converted.
   * Default: it does not.
   */
  readonly keepHalf?: ((config: ModelConfig) => boolean) | undefined;
  readonly log?: ModelLog | undefined;
}

const ggufEnding = '.gguf';

/**
 * Reads a model: config, tokenizer, chat template, and where its weights lie. Weights that are not
 * float32 are converted on the first call (see `openWeights`). Cost: one pass over the weight files
 * for their hash and one over converted ones for their checksum.
 * @throws ReadonceError `invalid_argument` if `model` names nothing or its files are malformed,
 * `unsupported` for what is not built and for four-bit weights that the model does not have,
 * `storage_full` if converted weights find no room, `engine_unavailable` if a model of the hub
 * cannot be downloaded now
 */
export async function loadCheckpoint(options: LoadOptions): Promise<Checkpoint> {
  const { model, cacheFolder, log } = options;
  const path = await locate(options);
  const source = await readSource(path, model);
  const tokenizer = new BpeTokenizer(source.tokenizer);
  checkTokenIds(source, tokenizer);
  const template = createPromptTemplate(source.template, tokenizer);
  const keepHalf = options.keepHalf?.(source.config);
  const digest = await weightsDigest(source.weightFiles);
  const weights = { tensors: source.tensors, digest, cacheFolder, keepHalf, log };
  const tensors = await openWeights(weights);
  const fourBit = await openFourBit(weights, options);
  return {
    id: embeddedModels.has(model) ? model : basename(path, ggufEnding),
    description: embeddedModels.get(model) ?? describe(source),
    fingerprint: modelFingerprint(source, digest),
    config: source.config,
    tensors,
    fourBit,
    tokenizer,
    template,
  };
}

/** What can be said of a model without reading its weights. */
export interface ModelOutline {
  readonly description: string;
  /** Undefined: a model of the hub that the first start downloads. */
  readonly path: string | undefined;
  /** Undefined where the path is. */
  readonly config: ModelConfig | undefined;
}

/**
 * Reads what a model says of itself; nothing is downloaded or converted.
 * @throws ReadonceError `invalid_argument`, `unsupported`, as `loadCheckpoint`
 */
export async function outlineModel(
  options: Pick<LoadOptions, 'model' | 'cacheFolder'>,
): Promise<ModelOutline> {
  const { model, cacheFolder } = options;
  const local = await locateHere(model);
  const path = local ?? (await downloadedFolder({ id: model, cacheFolder }));
  if (path === undefined) return { description: 'a model of the hub', path, config: undefined };
  const source = await readSource(path, model);
  const description = embeddedModels.get(model) ?? describe(source);
  return { description, path, config: source.config };
}

/** The folder or file of a model; downloads it if it is one of the hub's. */
async function locate({ model, cacheFolder, log }: LoadOptions): Promise<string> {
  return (await locateHere(model)) ?? downloadCheckpoint({ id: model, cacheFolder, log });
}

/** Undefined: not a path, but the id of a model of the hub. */
async function locateHere(model: string): Promise<string | undefined> {
  if (embeddedModels.has(model)) return embeddedFolder(model);
  const path = resolve(model);
  const isLocal = (await stat(path).catch(() => undefined)) !== undefined;
  return isLocal || !isHubId(model) ? path : undefined;
}

async function readSource(path: string, model: string): Promise<CheckpointSource> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() === true && path.endsWith(ggufEnding)) return readGguf(path);
  if (found?.isDirectory() === true) {
    if (await isHfFolder(path)) return readHfFolder(path);
    const files = (await readdir(path)).filter((name) => name.endsWith(ggufEnding));
    const [only] = files;
    if (only !== undefined && files.length === 1) return readGguf(join(path, only));
  }
  throw new ReadonceError(
    'invalid_argument',
    `Expected for the model one of: an embedded model (${[...embeddedModels.keys()].join(', ')}), ` +
      'a folder with model.safetensors (or its index) or exactly one GGUF file, a .gguf file, ' +
      'or the owner/name of a model of the Hugging Face hub; ' +
      `but got ${model}`,
  );
}

async function openFourBit(
  weights: WeightsOptions,
  { model, decodeWeights = 'f32' }: LoadOptions,
): Promise<ReadonlyMap<string, FourBitLinear> | undefined> {
  if (decodeWeights === 'f32') return undefined;
  const fourBit = await openFourBitWeights(weights);
  if (fourBit.size > 0) return fourBit;
  if (decodeWeights === 'auto') return undefined;
  throw new ReadonceError(
    'unsupported',
    `Expected matrices in Q4_1 for decodeWeights q4 but got a model without any: ${model}. ` +
      'Set decodeWeights to auto or f32.',
  );
}

function checkTokenIds(source: CheckpointSource, tokenizer: BpeTokenizer): void {
  const { vocabSize, endTokenIds } = source.config;
  const most = Math.max(tokenizer.idCount - 1, ...endTokenIds);
  if (most < vocabSize) return;
  throw new ReadonceError(
    'invalid_argument',
    `Expected token ids below the vocabulary size ${vocabSize} but got ${most}`,
  );
}

function describe({ config }: CheckpointSource): string {
  const { family, layers, hiddenSize, contextLength } = config;
  return `${family}, ${layers} layers of ${hiddenSize}, ${contextLength} tokens`;
}
