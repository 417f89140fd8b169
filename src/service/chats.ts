import { contextTokens, type StoredContext } from '../core/context.ts';
import { ReadonceError } from '../core/errors.ts';
import type { QuerySource } from '../engine/protocol.ts';
import { planChat, type ChatPlan, type DocumentReading } from './chat-plan.ts';
import type { ContextLookup } from './context-lookup.ts';
import type { ServiceDeps } from './deps.ts';
import { engineInfo } from './engine-info.ts';
import type { DocumentFinder } from './document-finder.ts';
import type { PutContext } from './put-context.ts';
import type { AskedAnswer, Queries, QueryOptions, SamplingRequest } from './queries.ts';
import { conversationTurns, type ChatMessage } from './turns.ts';

/** A chat as clients of OpenAI's interface send it. */
export interface ChatInput {
  /** Who asks; '' without tenants. */
  readonly tenant: string;
  /** The id of the served model. */
  readonly model: string;
  readonly messages: readonly ChatMessage[];
  /** All messages are turns with it; undefined: the first message is looked up. */
  readonly contextId: string | undefined;
  /** Whether a document that is not stored is put, rather than read for this chat only. */
  readonly store: boolean;
  readonly sampling: SamplingRequest;
}

/** An answer, and what of its prompt came from a context. */
export interface ChatAnswer extends AskedAnswer {
  /** Undefined: nothing stored was used. */
  readonly contextId: string | undefined;
  /** Prefix, document and turns. */
  readonly promptTokens: number;
  /** Of these, the ones that were not computed: the context's, prefix included. */
  readonly cachedTokens: number;
}

/** What a chat is asked of. */
interface Ground {
  readonly source: QuerySource;
  readonly stored: StoredContext | undefined;
  readonly turns: readonly ChatMessage[];
}

/** What the use case is made of. */
export interface ChatParts {
  readonly lookup: ContextLookup;
  readonly queries: Queries;
  readonly put: PutContext;
  readonly finder: DocumentFinder;
}

/** The use case behind `POST /v1/chat/completions`. */
export class Chats {
  readonly #deps: ServiceDeps;
  readonly #parts: ChatParts;

  constructor(deps: ServiceDeps, parts: ChatParts) {
    this.#deps = deps;
    this.#parts = parts;
  }

  /**
   * Answers the last message of a chat: from the context it names or whose document it begins
   * with, else from a prompt that is computed for it alone.
   * @throws ReadonceError `not_found` (the model or the context), and what `Queries.query` and
   *   `PutContext.put` throw
   */
  async complete(
    input: ChatInput,
    options: QueryOptions,
    signal: AbortSignal,
  ): Promise<ChatAnswer> {
    this.#checkModel(input.model);
    const { source, stored, turns } = await this.#ground(input, signal);
    const contextId = stored?.record.id;
    const { tenant, sampling } = input;
    const ask = { source, tenant, contextId, turns, sampling };
    const answer = await this.#parts.queries.ask(ask, options, signal);
    const { usage } = answer;
    const cachedTokens = stored === undefined ? 0 : contextTokens(stored.record);
    const readTokens = stored === undefined ? usage.contextTokens : 0;
    const promptTokens = cachedTokens + readTokens + usage.queryTokens;
    return { ...answer, contextId, promptTokens, cachedTokens };
  }

  #checkModel(model: string): void {
    const { modelId } = engineInfo(this.#deps.engine);
    if (model !== modelId) throw unknownModel(modelId);
  }

  async #ground(input: ChatInput, signal: AbortSignal): Promise<Ground> {
    const { tenant, contextId, messages, store } = input;
    if (contextId !== undefined) {
      const stored = this.#parts.lookup.ready({ tenant, id: contextId });
      return contextGround(stored, conversationTurns(messages));
    }
    const plan = planChat(messages);
    const found = await this.#findDocument(plan, tenant, signal);
    if (found !== undefined) return found;
    if (store && plan.toStore !== undefined) return this.#store(plan.toStore, tenant, signal);
    const { document, instructions, turns } = plan.unstored();
    return { source: { kind: 'prompt', document, instructions }, stored: undefined, turns };
  }

  /** The first document of a chat that is stored. */
  async #findDocument(
    { documents, isShort }: ChatPlan,
    tenant: string,
    signal: AbortSignal,
  ): Promise<Ground | undefined> {
    const find = async (reading: DocumentReading): Promise<Ground | undefined> => {
      const stored = await this.#parts.finder.find({ tenant, ...reading }, signal);
      return stored && contextGround(stored, reading.turns);
    };
    if (isShort) {
      const found = await Promise.all(documents.map(find));
      return found.find((ground) => ground !== undefined);
    }
    // The later ones have the first one's text for instructions: tokenising it again takes time.
    for (const reading of documents) {
      const found = await find(reading);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  async #store(
    { document, instructions, turns }: DocumentReading,
    tenant: string,
    signal: AbortSignal,
  ): Promise<Ground> {
    const { lookup, put } = this.#parts;
    const input = { tenant, document, instructions, compression: {} };
    const { context } = await put.put(input, { wait: true, signal });
    return contextGround(lookup.ready({ tenant, id: context.id }), turns);
  }
}

function contextGround(stored: StoredContext, turns: readonly ChatMessage[]): Ground {
  const contextId = stored.record.id;
  return { source: { kind: 'context', contextId, keepRatio: undefined }, stored, turns };
}

/** No other model than `served` is. @returns a `not_found` whose path is `model` */
export function unknownModel(served: string | undefined): ReadonceError {
  const expected = served === undefined ? 'a served model' : JSON.stringify(served);
  return new ReadonceError(
    'not_found',
    `Expected ${expected} for model but got another. GET /v1/models lists what is served.`,
    { details: { path: 'model' } },
  );
}
