import type { CompressionSpec } from '../core/compression-spec.ts';
import { ReadonceError } from '../core/errors.ts';
import { contextId } from '../core/identity.ts';
import { kvLayout } from '../model/config.ts';
import type { Checkpoint } from '../model/checkpoint.ts';
import type { ScoringMethod, ScoringPlanInput } from '../compression/method.ts';
import { resolveMethod } from '../compression/registry.ts';
import type { IdentifyRequest } from './protocol.ts';

/** A document as the model will see it, and what it would be stored as. */
export interface TokenizedDocument {
  readonly id: string;
  readonly prefixIds: Int32Array;
  readonly documentIds: Int32Array;
  readonly compression: CompressionSpec;
  readonly method: ScoringMethod;
  readonly chunkTokens: number;
  readonly plan: ScoringPlanInput;
}

/**
 * Tokenises a document and names the context it becomes; the model does not run.
 * @throws ReadonceError `context_too_long` if it leaves no room in the model's window; a text that
 * cannot fit is refused before it is tokenised
 */
export function tokenizeDocument(
  checkpoint: Checkpoint,
  request: IdentifyRequest,
): TokenizedDocument {
  const { config, template, tokenizer } = checkpoint;
  refuseHopeless(checkpoint, request.document, 'document');
  refuseHopeless(checkpoint, request.instructions ?? '', 'instructions');
  const prefixIds = template.prefixIds(request.instructions);
  const documentIds = tokenizer.encode(request.document);
  const method = resolveMethod(request.compression.method);
  const limit = config.contextLength - prefixIds.length - template.suffixIds.length - 1;
  if (documentIds.length > limit) {
    throw tooLong(checkpoint, { tokens: documentIds.length, limit, what: 'document' });
  }
  const plan: ScoringPlanInput = {
    layout: kvLayout(config),
    prefixTokens: prefixIds.length,
    documentIds,
    suffixIds: template.suffixIds,
    contextLength: config.contextLength,
    encode: (text) => tokenizer.encode(text),
  };
  const chunkTokens = method.chunkTokens(plan);
  const { tenant, compression } = request;
  const id = contextId({
    tenantSalt: tenant,
    modelFingerprint: checkpoint.fingerprint,
    prefixIds,
    documentIds,
    compression,
    methodVersion: method.version,
    chunkTokens,
  });
  return { id, prefixIds, documentIds, compression, method, chunkTokens, plan };
}

/** Refuses a text of which even the longest tokens would overrun the window. */
function refuseHopeless(checkpoint: Checkpoint, text: string, what: string): void {
  const bytes = Buffer.byteLength(text, 'utf8');
  const atLeast = Math.ceil(bytes / checkpoint.tokenizer.longestTokenBytes);
  const limit = checkpoint.config.contextLength;
  if (atLeast > limit) throw tooLong(checkpoint, { tokens: `at least ${atLeast}`, limit, what });
}

function tooLong(
  checkpoint: Checkpoint,
  facts: { readonly tokens: number | string; readonly limit: number; readonly what: string },
): ReadonceError {
  const { id, config } = checkpoint;
  return new ReadonceError(
    'context_too_long',
    `Expected at most ${facts.limit} tokens of ${facts.what} but got ${facts.tokens}: ` +
      `${id} has a window of ${config.contextLength} tokens. Split the text or use another model.`,
    { details: { tokens: facts.tokens, limit: facts.limit, window: config.contextLength } },
  );
}
