import { z } from 'zod';
import { ReadonceError } from '../core/errors.ts';
import type { ModelConfig } from './config.ts';

/** No dimension of a model is near this; it keeps products of two within exact integers. */
const maxDimension = 2 ** 24;

/** A dimension of a model. */
export const dimensionSchema = z.int().positive().max(maxDimension);

/**
 * The config, if its heads fit each other.
 * @throws ReadonceError `invalid_argument`
 */
export function checkHeads(config: ModelConfig): ModelConfig {
  const { queryHeads, kvHeads, headDim } = config;
  if (queryHeads % kvHeads !== 0) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected a multiple of ${kvHeads} KV heads for the query heads but got ${queryHeads}`,
    );
  }
  if (headDim % 2 !== 0) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected an even number for the head dim (rotary halves) but got ${headDim}`,
    );
  }
  return config;
}
