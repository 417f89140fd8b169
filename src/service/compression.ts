import type { CompressionSpec } from '../core/compression-spec.ts';
import { ReadonceError } from '../core/errors.ts';
import {
  budgets,
  precisions,
  resolveBudget,
  resolveKeepRatio,
  resolveMethod,
  resolvePrecision,
} from '../compression/registry.ts';

/** What a client asked for; what is left out comes from the configuration. */
export interface CompressionRequest {
  readonly method?: string | undefined;
  /** (0, 1], or a word of the contract. */
  readonly keepRatio?: number | string | undefined;
  readonly budget?: string | undefined;
  readonly precision?: string | undefined;
}

/** What a client may name for `budget`. */
export const budgetNames: readonly string[] = [...budgets.keys()];
/** What a client may name for `precision`. */
export const precisionNames: readonly string[] = [...precisions.keys()];

/** The contract's defaults: the paper's method at a ratio where answers stay as good. */
export const defaultCompression: CompressionSpec = {
  method: 'kvzip',
  keepRatio: 0.3,
  budget: 'global',
  precision: 'f16',
};

/**
 * The compression a context will be made with.
 * @throws ReadonceError `invalid_argument` for what is unknown or contradicts the method,
 *   `unsupported` for what the contract names but is not built; `details.path` says which field.
 */
export function resolveCompression(
  request: CompressionRequest,
  defaults: CompressionSpec,
): CompressionSpec {
  const method = at('compression.method', () => resolveMethod(request.method ?? defaults.method));
  const keepRatio = at('compression.keepRatio', () =>
    resolveKeepRatio({ method, requested: request.keepRatio, byDefault: defaults.keepRatio }),
  );
  const budget = at('compression.budget', () => resolveBudget(request.budget ?? defaults.budget));
  const precision = at('compression.precision', () =>
    resolvePrecision(request.precision ?? defaults.precision),
  );
  return { method: method.name, keepRatio, budget: budget.name, precision: precision.name };
}

/** Runs `resolve` and adds to its error which field it is about. */
function at<T>(path: string, resolve: () => T): T {
  try {
    return resolve();
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    throw new ReadonceError(error.code, error.message, {
      cause: error,
      details: { ...error.details, path },
    });
  }
}
