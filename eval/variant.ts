import type { CompressionSpec } from '../src/core/compression-spec.ts';

/** A cache to answer from, stored in f16. */
export type Variant = Omit<CompressionSpec, 'precision'>;

/** The whole cache: what the others are measured against. */
export const fullCache: Variant = { method: 'none', budget: 'global', keepRatio: 1 };

/** KVzip as it is by default, at a keepRatio. */
export function kvzipAt(keepRatio: number): Variant {
  return { method: 'kvzip', budget: 'global', keepRatio };
}

/** `full`, `kvzip 0.3`, `kvzip 0.3 uniform` */
export function variantName({ method, budget, keepRatio }: Variant): string {
  if (method === 'none') return 'full';
  return `${method} ${keepRatio}${budget === 'global' ? '' : ` ${budget}`}`;
}

/**
 * The contexts that serve all variants: one for each method and budget, at the largest keepRatio
 * asked for, since any smaller one is a prefix of what is stored.
 */
export function contextsFor(variants: readonly Variant[]): ReadonlyMap<string, CompressionSpec> {
  const contexts = new Map<string, CompressionSpec>();
  for (const variant of variants) {
    const key = contextKey(variant);
    const keepRatio = Math.max(variant.keepRatio, contexts.get(key)?.keepRatio ?? 0);
    contexts.set(key, { ...variant, keepRatio, precision: 'f16' });
  }
  return contexts;
}

/** The key of a variant's context in `contextsFor`. */
export function contextKey({ method, budget }: Variant): string {
  return `${method}/${budget}`;
}
