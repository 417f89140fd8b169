import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import type { ModelConfig } from './config.ts';
import { selectTensors } from './family-tensors.ts';
import { fileSize, maxJsonBytes, parseChecked, readJson } from './files.ts';
import { parseHfConfig } from './hf-config.ts';
import { readSafetensorsHeader } from './safetensors.ts';
import type { SafetensorsEntry } from './safetensors.ts';
import type { CheckpointSource, SourceTensor, TemplateSource } from './source.ts';
import type { TensorEncoding } from './tensor-encodings.ts';
import { parseTokenizerJson } from './tokenizer-definition.ts';

/** Weights in one file. */
const singleWeightsFile = 'model.safetensors';
/** Says which of several files holds which tensor. */
const weightsIndexFile = 'model.safetensors.index.json';

/** Most files that weights may be spread over; a 400B model has about 200. */
const maxShards = 4096;

const indexSchema = z.object({
  // Plain names only: a path in an index could point anywhere.
  weight_map: z.record(
    z.string(),
    z
      .string()
      .regex(/^[\w-][\w.-]*\.safetensors$/, 'expected the plain name of a safetensors file'),
  ),
});

const tokenText = z.union([z.string(), z.object({ content: z.string() })]).nullish();
const tokenizerConfigSchema = z.object({
  bos_token: tokenText,
  eos_token: tokenText,
  chat_template: z
    .union([z.string(), z.array(z.object({ name: z.string(), template: z.string() }))])
    .nullish(),
});
type TokenizerConfig = z.infer<typeof tokenizerConfigSchema>;

/** Safetensors types that we compute with. */
const encodings: ReadonlyMap<string, TensorEncoding> = new Map([
  ['F32', 'F32'],
  ['F16', 'F16'],
  ['BF16', 'BF16'],
]);

/** True if the folder holds weights in Hugging Face's layout. */
export async function isHfFolder(folder: string): Promise<boolean> {
  const names = [singleWeightsFile, weightsIndexFile];
  const sizes = await Promise.all(names.map((name) => fileSize(join(folder, name))));
  return sizes.some((size) => size !== undefined);
}

/**
 * Reads a checkpoint folder of Hugging Face's layout: config.json, tokenizer.json,
 * tokenizer_config.json (or chat_template.jinja), and safetensors, single or sharded.
 * @throws ReadonceError `invalid_argument` for files that are missing or malformed, `unsupported`
 * for architectures, tokenizers and tensor types that are not built
 */
export async function readHfFolder(folder: string): Promise<CheckpointSource> {
  const config = parseHfConfig(
    await requireJson(folder, 'config.json'),
    await readJson(join(folder, 'generation_config.json')),
  );
  const tokenizer = parseTokenizerJson(await requireJson(folder, 'tokenizer.json'));
  const template = await readTemplate(folder);
  const { files, tensors } = await readTensors(folder, config);
  return { config, tokenizer, template, tensors, weightFiles: files };
}

async function requireJson(folder: string, name: string): Promise<unknown> {
  const value = await readJson(join(folder, name));
  if (value !== undefined) return value;
  throw new ReadonceError(
    'invalid_argument',
    `Expected ${name} in the checkpoint folder ${folder} but got none`,
  );
}

async function readTemplate(folder: string): Promise<TemplateSource> {
  const settings = parseChecked(
    tokenizerConfigSchema,
    (await readJson(join(folder, 'tokenizer_config.json'))) ?? {},
    'tokenizer_config.json',
  );
  const text = (await readTemplateFile(folder)) ?? inlineTemplate(settings);
  if (text === undefined) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected a chat template in tokenizer_config.json or chat_template.jinja of ${folder} but ` +
        'got none; use an instruction-tuned checkpoint',
    );
  }
  return {
    text,
    bosToken: contentOf(settings.bos_token),
    eosToken: contentOf(settings.eos_token),
  };
}

async function readTemplateFile(folder: string): Promise<string | undefined> {
  const file = join(folder, 'chat_template.jinja');
  const sizeBytes = await fileSize(file);
  if (sizeBytes === undefined || sizeBytes > maxJsonBytes) return undefined;
  return readFile(file, 'utf8');
}

function inlineTemplate({ chat_template: template }: TokenizerConfig): string | undefined {
  if (!Array.isArray(template)) return template ?? undefined;
  return template.find(({ name }) => name === 'default')?.template;
}

function contentOf(token: TokenizerConfig['bos_token']): string {
  if (typeof token === 'string') return token;
  return token?.content ?? '';
}

async function readTensors(
  folder: string,
  config: ModelConfig,
): Promise<{ readonly files: readonly string[]; readonly tensors: readonly SourceTensor[] }> {
  // transformers prefers the single file too, where a folder has both.
  const single = (await fileSize(join(folder, singleWeightsFile))) !== undefined;
  const index = single ? undefined : await requireJson(folder, weightsIndexFile);
  const map =
    index === undefined ? undefined : parseChecked(indexSchema, index, weightsIndexFile).weight_map;
  const names = map === undefined ? [singleWeightsFile] : [...new Set(Object.values(map))].sort();
  if (names.length > maxShards) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected at most ${maxShards} files in ${weightsIndexFile} but got ${names.length}`,
    );
  }
  const found = new Map<string, SafetensorsEntry & { readonly file: string }>();
  for (const name of names) {
    const file = join(folder, name);
    for (const entry of (await readSafetensorsHeader(file)).entries) {
      checkShard(entry.name, {
        file: name,
        mapped: map?.[entry.name],
        other: found.has(entry.name),
      });
      found.set(entry.name, { ...entry, file });
    }
  }
  checkMapped(map, found);
  const tensors = selectTensors(config, found, (entry) => ({
    name: entry.name,
    shape: entry.shape,
    file: entry.file,
    offsetBytes: entry.offsetBytes,
    sizeBytes: entry.sizeBytes,
    encoding: encodingOf(entry),
    interleavedHeads: undefined,
    roundToHalf: false,
  }));
  return { files: names.map((name) => join(folder, name)), tensors };
}

function checkShard(
  tensor: string,
  where: { readonly file: string; readonly mapped: string | undefined; readonly other: boolean },
): void {
  const { file, mapped, other } = where;
  if (!other && (mapped === undefined || mapped === file)) return;
  throw new ReadonceError(
    'invalid_argument',
    `Expected ${tensor} once, in ${mapped ?? 'one file'} as ${weightsIndexFile} says, but got it in ${file}`,
  );
}

function checkMapped(
  map: Readonly<Record<string, string>> | undefined,
  found: ReadonlyMap<string, unknown>,
): void {
  for (const [name, file] of Object.entries(map ?? {})) {
    if (found.has(name)) continue;
    throw new ReadonceError(
      'invalid_argument',
      `Expected ${name} in ${file} as ${weightsIndexFile} says but got none`,
    );
  }
}

function encodingOf({ name, dtype }: SafetensorsEntry): TensorEncoding {
  const encoding = encodings.get(dtype);
  if (encoding !== undefined) return encoding;
  throw new ReadonceError(
    'unsupported',
    `Expected one of ${[...encodings.keys()].join(', ')} for the type of ${name} but got ${dtype}`,
  );
}
