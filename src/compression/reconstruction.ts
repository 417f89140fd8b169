import { assert } from '../core/assert.ts';
import { concatenate } from '../core/concatenate.ts';
import { ReadonceError } from '../core/errors.ts';
import type { ReconstructionPass, ScoringPlanInput } from './method.ts';

/**
 * Tokens of a chunk where the window allows: the paper's `m` (arXiv 2505.23416, section 3), long
 * enough that few passes are needed, short enough that a model repeats it without losing its place.
 */
export const longestChunkTokens = 2000;

/**
 * The least room for a chunk. Under it a document would need so many passes, each with its prompt,
 * that scoring costs more than the document is worth.
 */
export const shortestChunkTokens = 256;

/** Tokens of the previous chunk that tell the model where to go on (paper, section 3). */
export const leadInTokens = 8;

const firstPrompt = '\n\nRepeat the previous context exactly.';
const laterPrompt = '\n\nRepeat the part of the previous context exactly, starting with ';

interface PromptTokens {
  /** Tokens before the first chunk, S left out. */
  readonly first: number;
  /** Tokens before any chunk of several, S left out: the longer of the two prompts. */
  readonly longer: number;
}

/**
 * Tokens of a reconstruction chunk: 2,000, or what the model's window leaves beside the document,
 * the template and the prompt, since a pass runs behind the whole document. The last chunk may be
 * shorter. The prompt counted is the first where one chunk is enough, else the longer of the two.
 * @throws ReadonceError `context_too_long` when less than 256 tokens are left.
 */
export function reconstructionChunkTokens(input: ScoringPlanInput): number {
  const first = input.encode(firstPrompt).length;
  const prompts = {
    first,
    longer: Math.max(first, input.encode(laterPrompt).length + leadInTokens),
  };
  const tokens = input.documentIds.length;
  assert(tokens > 0, 'expected a document of at least one token');
  const room = roomBesideTemplate(input) - tokens;
  const alone = Math.min(longestChunkTokens, room - prompts.first);
  const chunk = tokens <= alone ? alone : Math.min(longestChunkTokens, room - prompts.longer);
  if (chunk < shortestChunkTokens) throw tooLong(input, prompts);
  return chunk;
}

/**
 * The teacher-forced passes that make a model repeat the document, in order: together they cover
 * each document token once (KVzip, arXiv 2505.23416, section 3). The first asks for the whole
 * context, each later one names the last 8 tokens of the chunk before it.
 * @throws ReadonceError `context_too_long`, see `reconstructionChunkTokens`.
 */
export function reconstructionPasses(input: ScoringPlanInput): readonly ReconstructionPass[] {
  const { documentIds, suffixIds } = input;
  const chunkTokens = reconstructionChunkTokens(input);
  const firstIds = input.encode(firstPrompt);
  const laterIds = input.encode(laterPrompt);
  const passes: ReconstructionPass[] = [];
  for (let chunkStart = 0; chunkStart < documentIds.length; chunkStart += chunkTokens) {
    const chunkEnd = Math.min(chunkStart + chunkTokens, documentIds.length);
    const leadIn = documentIds.subarray(chunkStart - leadInTokens, chunkStart);
    const promptIds =
      chunkStart === 0
        ? concatenate(firstIds, suffixIds)
        : concatenate(laterIds, leadIn, suffixIds);
    passes.push({ promptIds, chunkStart, chunkEnd });
  }
  return passes;
}

function roomBesideTemplate(input: ScoringPlanInput): number {
  return input.contextLength - input.prefixTokens - input.suffixIds.length;
}

function tooLong(input: ScoringPlanInput, prompts: PromptTokens): ReadonceError {
  const tokens = input.documentIds.length;
  const window = input.contextLength;
  const room = roomBesideTemplate(input);
  const inSeveralChunks = room - prompts.longer - shortestChunkTokens;
  const roomForOne = room - prompts.first;
  const inOneChunk = Math.min(Math.floor(roomForOne / 2), roomForOne - shortestChunkTokens);
  const limit = Math.max(inSeveralChunks, inOneChunk, 0);
  return new ReadonceError(
    'context_too_long',
    `Expected at most ${limit} tokens for a document that is scored by repeating it in a window ` +
      `of ${window} tokens but got ${tokens}. Split the document, or choose a method that does ` +
      `not reconstruct.`,
    { details: { tokens, limit, window } },
  );
}
