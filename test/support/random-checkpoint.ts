import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { BpeTokenizer } from '../../src/model/bpe-tokenizer.ts';
import { createPromptTemplate } from '../../src/model/chat-template.ts';
import type { Checkpoint } from '../../src/model/checkpoint.ts';
import { embeddedFolder } from '../../src/model/embedded.ts';
import { readHfFolder } from '../../src/model/hf-folder.ts';
import { randomModel } from './tiny-model.ts';

/** A model of random weights that computes in no time, and the folder that holds them. */
export interface RandomCheckpoint {
  readonly checkpoint: Checkpoint;
  remove(): void;
}

/**
 * Two layers of two KV heads with `reader-mini`'s tokenizer and template, and a window of 1,024
 * tokens. Its answers mean nothing but are always the same.
 */
export async function randomCheckpoint(): Promise<RandomCheckpoint> {
  const folder = mkdtempSync(join(tmpdir(), 'readonce-random-'));
  const source = await readHfFolder(embeddedFolder('reader-mini'));
  const tokenizer = new BpeTokenizer(source.tokenizer);
  const { config, tensors } = randomModel(folder, {
    layers: 2,
    queryHeads: 4,
    kvHeads: 2,
    headDim: 16,
    hiddenSize: 64,
    feedForwardSize: 96,
    vocabSize: source.config.vocabSize,
    attentionBias: false,
    feedForwardBias: false,
    tiedHead: true,
    ropeScaling: null,
    seed: 5,
  });
  const checkpoint: Checkpoint = {
    id: 'random',
    description: 'Random weights.',
    fingerprint: `sha256:${'0'.repeat(64)}`,
    config: { ...config, contextLength: 1024, endTokenIds: source.config.endTokenIds },
    tensors,
    tokenizer,
    template: createPromptTemplate(source.template, tokenizer),
  };
  return { checkpoint, remove: () => rmSync(folder, { recursive: true }) };
}
