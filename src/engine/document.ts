import type { CompressionSpec } from '../core/compression-spec.ts';
import { ReadonceError } from '../core/errors.ts';
import { contextId, familyId, type ContextIdentity } from '../core/identity.ts';
import { kvLayout } from '../model/config.ts';
import type { Checkpoint, Tokenizer } from '../model/checkpoint.ts';
import type { ScoringMethod, ScoringPlanInput } from '../compression/method.ts';
import { budgets, resolveMethod, scoringMethods } from '../compression/registry.ts';
import type { TokenIds } from '../../storage/context-store.ts';
import type { IdentifyRequest } from './protocol.ts';

/** A document as the model will see it, and what it would be stored as. */
export interface TokenizedDocument {
  readonly id: string;
  /** Names the contexts that this one may be derived from, or they from it. */
  readonly family: string;
  readonly prefixIds: Int32Array;
  readonly documentIds: Int32Array;
  readonly compression: CompressionSpec;
  readonly method: ScoringMethod;
  readonly chunkTokens: number;
  readonly plan: ScoringPlanInput;
}

/**
 * Tokenises a document and names the context it becomes; the model does not run.
 * @throws ReadonceError `context_too_long` if it leaves no room in the model's window (a text that
 * cannot fit is refused before all of it is tokenised), `invalid_argument` if it has no tokens
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
  if (documentIds.length === 0) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected a document of at least one token of ${checkpoint.id} but got none: its vocabulary ` +
        'has no token for any of the characters.',
    );
  }
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
  const { tenantSalt, compression } = request;
  const identity: ContextIdentity = {
    tenantSalt,
    modelFingerprint: checkpoint.fingerprint,
    prefixIds,
    documentIds,
    compression,
    methodVersion: method.version,
    chunkTokens,
  };
  const [id, family] = [contextId(identity), familyId(identity)];
  return { id, family, prefixIds, documentIds, compression, method, chunkTokens, plan };
}

/**
 * The families of the contexts that a document may be stored as, one for each method and budget
 * that are built; methods that it leaves no room for have none.
 */
export function familiesOf(
  checkpoint: Checkpoint,
  { tenantSalt }: Pick<IdentifyRequest, 'tenantSalt'>,
  { prefixIds, documentIds, compression, plan }: TokenizedDocument,
): readonly string[] {
  const source = {
    tenantSalt,
    modelFingerprint: checkpoint.fingerprint,
    prefixIds,
    documentIds,
  };
  return [...scoringMethods.values()].flatMap((method) => {
    const chunkTokens = roomyChunkTokens(method, plan);
    if (chunkTokens === undefined) return [];
    return [...budgets.keys()].map((budget) =>
      familyId({
        ...source,
        compression: { ...compression, method: method.name, budget },
        methodVersion: method.version,
        chunkTokens,
      }),
    );
  });
}

/** Undefined: the method has no room for the document. */
function roomyChunkTokens(method: ScoringMethod, plan: ScoringPlanInput): number | undefined {
  try {
    return method.chunkTokens(plan);
  } catch (error) {
    if (error instanceof ReadonceError && error.code === 'context_too_long') return undefined;
    throw error;
  }
}

/** Whether stored token ids are those of a document: a hash alone is not believed. */
export function sameTokens(stored: TokenIds, document: TokenizedDocument): boolean {
  return (
    same(stored.prefixIds, document.prefixIds) && same(stored.documentIds, document.documentIds)
  );
}

function same(a: Int32Array, b: Int32Array): boolean {
  return a.length === b.length && a.every((id, i) => id === b[i]);
}

/** Refuses a text that would overrun the window by itself. */
function refuseHopeless(checkpoint: Checkpoint, text: string, what: string): void {
  const limit = checkpoint.config.contextLength;
  const atLeast = leastTokens(checkpoint.tokenizer, text, limit);
  if (atLeast > limit) throw tooLong(checkpoint, { tokens: `at least ${atLeast}`, limit, what });
}

/** Ordinary prose has about four characters a token; twice that says little of a text that fits. */
const probedCharactersPerToken = 8;

/**
 * A lower bound of a text's tokens, to refuse what is far too long: tokenising costs up to a second
 * for 100 KB, during which the engine does nothing else. The bound is what the longest token
 * allows, or what the beginning of the text has if `limit` is likely to be passed there. The
 * beginning ends before white space, where tokens end too.
 */
export function leastTokens(tokenizer: Tokenizer, text: string, limit: number): number {
  const bytes = Buffer.byteLength(text, 'utf8');
  const atLeast = Math.ceil(bytes / tokenizer.longestTokenBytes);
  const probed = probedCharactersPerToken * limit;
  if (atLeast > limit || text.length <= probed) return atLeast;
  const beginning = text.slice(0, probed);
  const space = beginning.search(/\s\S*$/);
  const whole = space > 0 ? beginning.slice(0, space).trimEnd() : beginning;
  return Math.max(atLeast, tokenizer.encode(whole).length);
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
