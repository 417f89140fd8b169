import { createHash } from 'node:crypto';
import { sha256File } from './files.ts';
import type { CheckpointSource } from './source.ts';
import type { TokenizerDefinition } from './tokenizer-definition.ts';

/**
 * SHA-256 over the bytes of the weight files, hex: of one file its own, of several that of theirs
 * in order. Names and folders do not matter.
 */
export async function weightsDigest(files: readonly string[]): Promise<string> {
  const digests: string[] = [];
  for (const file of files) digests.push(await sha256File(file));
  const [only] = digests;
  if (only !== undefined && digests.length === 1) return only;
  return createHash('sha256').update(digests.join('\n')).digest('hex');
}

/**
 * `sha256:…` over everything of a checkpoint that decides token ids and numbers: config, weights,
 * tokenizer and chat template, each length-prefixed.
 */
export function modelFingerprint(source: CheckpointSource, weights: string): string {
  const hash = createHash('sha256');
  const fields = [
    'readonce model 1',
    canonicalJson(source.config),
    weights,
    canonicalTokenizer(source.tokenizer),
    canonicalJson(source.template),
  ];
  for (const field of fields) {
    hash.update(`${Buffer.byteLength(field)}:`).update(field);
  }
  return `sha256:${hash.digest('hex')}`;
}

function canonicalTokenizer(definition: TokenizerDefinition): string {
  const { vocab, merges, ignoreMerges, addedTokens, preTokenizer } = definition;
  const byId = Object.entries(vocab).toSorted(([, a], [, b]) => a - b);
  const added = addedTokens.toSorted((a, b) => a.id - b.id);
  return canonicalJson({ vocab: byId, merges, ignoreMerges, added, preTokenizer });
}

/** JSON with keys in order, so that how a file was written does not matter. */
function canonicalJson(value: unknown): string {
  return JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === 'object' && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).toSorted(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );
}
