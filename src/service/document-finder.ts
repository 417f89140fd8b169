import type { CompressionSpec } from '../core/compression-spec.ts';
import type { StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import { Admission } from './admission.ts';
import { resolveCompression } from './compression.ts';
import type { ServiceDeps } from './deps.ts';
import type { TenantSalts } from './tenant-salts.ts';
import { hasExpired } from './usage-change.ts';

const compressionFields = ['method', 'keepRatio', 'budget', 'precision'] as const;

/** A document as a context begins with it, and whose context is looked for. */
export interface FindInput {
  /** '' without tenants. */
  readonly tenant: string;
  /** Trimmed, not empty. */
  readonly document: string;
  /** Trimmed, not empty. */
  readonly instructions: string | undefined;
}

/** Finds the contexts of documents that come as messages of a chat. */
export class DocumentFinder {
  readonly #deps: ServiceDeps;
  readonly #salts: TenantSalts;
  readonly #places: Admission;

  constructor(deps: ServiceDeps, salts: TenantSalts) {
    const { maxQueuedQueries, maxTenantQueries } = deps.limits;
    this.#deps = deps;
    this.#salts = salts;
    // A chat looks up at most two at once, and is bounded as a query by itself.
    this.#places = new Admission('documents being looked up', {
      all: 2 * maxQueuedQueries,
      each: 2 * maxTenantQueries,
    });
  }

  /**
   * A context of the document that has not expired, whatever its compression: of several the one
   * that a PUT without options makes, else the one with the most pairs. The model does not run.
   * @throws ReadonceError `context_too_long`, `rate_limited`, `overloaded`, `engine_unavailable`;
   *   the reason of `signal`
   */
  async find(
    { tenant, document, instructions }: FindInput,
    signal: AbortSignal,
  ): Promise<StoredContext | undefined> {
    const { engine, clock, defaults } = this.#deps;
    const request = { tenant, tenantSalt: this.#salts.saltOf(tenant), document, instructions };
    const found = await this.#places.run(tenant, () => noneIfRefused(engine.find(request, signal)));
    signal.throwIfAborted();
    const nowMs = clock.nowMs();
    const usable = found.filter(({ usage }) => !hasExpired(usage, nowMs));
    return preferred(usable, resolveCompression({}, defaults));
  }
}

/** A text that cannot be a context is not stored as one. */
async function noneIfRefused(
  finding: Promise<readonly StoredContext[]>,
): Promise<readonly StoredContext[]> {
  try {
    return await finding;
  } catch (error) {
    if (error instanceof ReadonceError && error.code === 'invalid_argument') return [];
    throw error;
  }
}

/** The context of a compression, or the one with the most pairs. */
function preferred(
  contexts: readonly StoredContext[],
  compression: CompressionSpec,
): StoredContext | undefined {
  const isSame = ({ record }: StoredContext): boolean =>
    compressionFields.every((field) => record.compression[field] === compression[field]);
  const pairs = ({ record }: StoredContext): number =>
    record.pairCounts.reduce((sum, count) => sum + count, 0);
  const [largest] = contexts.toSorted((a, b) => pairs(b) - pairs(a));
  return contexts.find(isSame) ?? largest;
}
