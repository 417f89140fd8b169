import type { StoredContext } from '../core/context.ts';
import { contextTokens } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { IngestProgress } from '../engine/protocol.ts';
import type { HeadRanking } from '../../storage/context-store.ts';
import { Admission } from './admission.ts';
import { AsyncQueue } from './async-queue.ts';
import type { ContextLookup } from './context-lookup.ts';
import { notFound } from './context-lookup.ts';
import type { ContextRef } from './context-ref.ts';
import { pendingView, readyView, type ContextView } from './context-view.ts';
import type { ServiceDeps } from './deps.ts';
import type { Ingestion, IngestionEvent } from './ingestion.ts';
import type { Ingestions } from './ingestions.ts';
import { invalidArgument } from './invalid-argument.ts';
import { unload } from './unload.ts';
import { hasExpired, usageChange, type UsageRequest } from './usage-change.ts';

/** Which page of contexts. */
export interface ListInput {
  /** Whose contexts; '' without tenants. */
  readonly tenant: string;
  /** 1 … 100 */
  readonly limit: number;
  /** `nextCursor` of the page before; undefined: the first page. */
  readonly cursor: string | undefined;
  /** Only contexts that have it; undefined: all. */
  readonly label: { readonly key: string; readonly value: string } | undefined;
}

/** Contexts, newest first; `nextCursor` is null on the last page. */
export interface ContextPage {
  readonly contexts: readonly ContextView[];
  readonly nextCursor: string | null;
}

/** What a client that follows a context is told; `ready` or `failed` comes last. */
export type ContextEvent =
  | { readonly kind: 'progress'; readonly progress: IngestProgress }
  | { readonly kind: 'ready'; readonly context: ContextView }
  | { readonly kind: 'failed'; readonly error: ReadonceError };

/** One KV head, by layer and place in it; both undefined: none. One alone is refused. */
export interface HeadSelection {
  readonly layer: number | undefined;
  readonly head: number | undefined;
}

/** What a context kept, for the heat map. */
export interface Importance {
  readonly contextId: string;
  readonly documentTokens: number;
  /** Protected tokens before the document, kept by every head and counted nowhere here. */
  readonly prefixTokens: number;
  readonly layers: number;
  readonly kvHeads: number;
  /** Document pairs kept, `[layers][kvHeads]`. */
  readonly keptCounts: number[][];
  /** The head that was asked for: document token indices and scores, best first. */
  readonly head: {
    readonly layer: number;
    readonly head: number;
    readonly positions: number[];
    readonly scores: number[];
  } | null;
}

/** The use cases around a context that exists or is on its way: read, change, delete, follow. */
export class Contexts {
  readonly #deps: ServiceDeps;
  readonly #lookup: ContextLookup;
  readonly #ingestions: Ingestions;
  readonly #streams: Admission;

  constructor(deps: ServiceDeps, lookup: ContextLookup, ingestions: Ingestions) {
    this.#deps = deps;
    this.#lookup = lookup;
    this.#ingestions = ingestions;
    this.#streams = new Admission('event streams', { all: deps.limits.maxEventStreams });
  }

  /** @throws ReadonceError `not_found`, `gone`, `corrupt_record` */
  get(ref: ContextRef): ContextView {
    const found = this.#lookup.find(ref);
    if (found.status === 'ready') return readyView(found.stored, true);
    if (found.status === 'failed') return pendingView(found.failed.pending, 'failed', true);
    return pendingView(found.ingestion.pending, 'ingesting', true);
  }

  /**
   * A page of stored contexts, newest first. Expired ones are left out, so a page may be shorter
   * than its limit although more follow. @throws ReadonceError `invalid_argument` (cursor)
   */
  list(input: ListInput): ContextPage {
    const page = this.#deps.store.list(input);
    const nowMs = this.#deps.clock.nowMs();
    const usable = page.contexts.filter(({ usage }) => !hasExpired(usage, nowMs));
    return {
      contexts: usable.map((stored) => readyView(stored, true)),
      nextCursor: page.nextCursor,
    };
  }

  /** @throws ReadonceError `not_found`, `gone`, `conflict` (its ingestion failed) */
  async change(ref: ContextRef, request: UsageRequest): Promise<ContextView> {
    const nowMs = this.#deps.clock.nowMs();
    const found = this.#lookup.find(ref);
    if (found.status === 'ingesting' && found.ingestion.changeUsage(request, nowMs)) {
      return pendingView(found.ingestion.pending, 'ingesting', true);
    }
    if (found.status === 'ingesting') await found.ingestion.settled();
    const { record } = this.#lookup.ready(ref);
    const updated = await this.#deps.store.update(record.id, usageChange(request, nowMs));
    if (updated === undefined) throw notFound();
    return readyView(updated, true);
  }

  /** Deletes a context; one still being ingested is stopped. @throws ReadonceError `not_found` */
  async delete(ref: ContextRef): Promise<void> {
    if (!this.#lookup.isOwn(ref)) throw notFound();
    const { id } = ref;
    const stopped = await this.#ingestions.cancel(
      id,
      new ReadonceError('conflict', 'The context was deleted while it was being ingested.'),
    );
    const forgotten = this.#ingestions.forget(id);
    const deleted = await this.#deps.store.delete(id);
    if (deleted) await unload(this.#deps, id);
    if (!stopped && !forgotten && !deleted) throw notFound();
  }

  /**
   * What happens to a context until it is ready or has failed; at once, if it is already. The
   * stream ends after `ready` or `failed`, or fails with the reason of `signal`.
   * @throws ReadonceError `not_found`, `gone`, `rate_limited`, `overloaded`
   */
  events(ref: ContextRef, signal: AbortSignal): AsyncIterable<ContextEvent> {
    const found = this.#lookup.find(ref);
    const queue = new AsyncQueue<ContextEvent>();
    if (found.status === 'ingesting') {
      this.#follow(found.ingestion, queue, signal);
      return queue;
    }
    queue.push(
      found.status === 'ready'
        ? { kind: 'ready', context: readyView(found.stored, true) }
        : { kind: 'failed', error: found.failed.error },
    );
    queue.end();
    return queue;
  }

  /**
   * @throws ReadonceError `invalid_argument` (a head the model does not have), `not_found`, `gone`,
   *   `conflict` (not ready), `corrupt_record`
   */
  importance(ref: ContextRef, selection: HeadSelection): Importance {
    const stored = this.#lookup.ready(ref);
    const { record } = stored;
    const { layers, kvHeads } = record.layout;
    const keptCounts = Array.from({ length: layers }, (_, layer) =>
      record.pairCounts
        .slice(layer * kvHeads, (layer + 1) * kvHeads)
        .map((count) => count - record.prefixTokens),
    );
    return {
      contextId: record.id,
      documentTokens: contextTokens(record) - record.prefixTokens,
      prefixTokens: record.prefixTokens,
      layers,
      kvHeads,
      keptCounts,
      head: this.#ranking(stored, selection),
    };
  }

  #ranking({ record }: StoredContext, { layer, head }: HeadSelection): Importance['head'] {
    if (layer === undefined && head === undefined) return null;
    const { layers, kvHeads } = record.layout;
    const chosenLayer = withinRange('layer', layer, layers);
    const chosenHead = withinRange('head', head, kvHeads);
    const place = chosenLayer * kvHeads + chosenHead;
    const ranking = this.#readRanking(record.id, place);
    return {
      layer: chosenLayer,
      head: chosenHead,
      positions: [...ranking.positions],
      scores: [...ranking.scores],
    };
  }

  #readRanking(id: string, head: number): HeadRanking {
    try {
      return this.#deps.store.readRanking(id, head);
    } catch (error) {
      this.#lookup.noteDamage(id, error);
      throw error;
    }
  }

  #follow(ingestion: Ingestion, queue: AsyncQueue<ContextEvent>, signal: AbortSignal): void {
    const leave = this.#streams.enter(ingestion.pending.tenant);
    const finish = () => {
      stop();
      leave();
      signal.removeEventListener('abort', abandon);
      queue.end();
    };
    const abandon = () => {
      queue.fail(signal.reason);
      finish();
    };
    const stop = ingestion.follow((event: IngestionEvent) => {
      if (event.kind === 'progress') {
        if (queue.size < this.#deps.limits.maxBufferedEvents) queue.push(event);
        return;
      }
      queue.push(
        event.kind === 'ready'
          ? { kind: 'ready', context: readyView(event.stored, true) }
          : { kind: 'failed', error: event.error },
      );
      finish();
    });
    signal.addEventListener('abort', abandon);
    if (signal.aborted) abandon();
  }
}

function withinRange(name: string, value: number | undefined, end: number): number {
  if (value !== undefined && value < end) return value;
  const got = value === undefined ? 'nothing' : String(value);
  throw invalidArgument(
    name,
    `Expected a whole number from 0 to ${end - 1} for ${name} but got ${got}.`,
  );
}
