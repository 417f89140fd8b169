import type { z } from '@hono/zod-openapi';
import type { ChatAnswer, ChatInput } from '../service/chats.ts';
import { invalidArgument } from '../service/invalid-argument.ts';
import { seedEnd } from '../service/queries.ts';
import type { ChatBody, chunkSchema, completionSchema } from './schemas/chat.ts';
import type { ServerEvent } from './sse.ts';

/**
 * A chat of OpenAI's interface as the service takes it.
 * @throws ReadonceError `invalid_argument` if body and header name different contexts
 */
export function chatInput(
  body: ChatBody,
  contextIdHeader: string | undefined,
): Omit<ChatInput, 'tenant'> {
  const contextId = body.context_id ?? contextIdHeader;
  if (contextIdHeader !== undefined && contextId !== contextIdHeader) {
    throw invalidArgument(
      'context_id',
      'Expected the same context for context_id and the header X-Context-Id but got two. ' +
        'Send one of them.',
    );
  }
  return {
    model: body.model,
    messages: body.messages.map(({ role, content }) => ({
      role: role === 'developer' ? 'system' : role,
      content: typeof content === 'string' ? content : content.map(({ text }) => text).join('\n'),
    })),
    contextId,
    store: body.store ?? false,
    sampling: sampling(body),
  };
}

function sampling(body: ChatBody): ChatInput['sampling'] {
  const { stop } = body;
  return {
    maxTokens: body.max_completion_tokens ?? body.max_tokens ?? undefined,
    temperature: body.temperature ?? undefined,
    topP: body.top_p ?? undefined,
    // Others draw from a signed range, or a larger one.
    seed: typeof body.seed === 'number' ? ((body.seed % seedEnd) + seedEnd) % seedEnd : undefined,
    stop: typeof stop === 'string' ? [stop] : (stop ?? undefined),
  };
}

/** What all messages of one completion say alike. */
export interface CompletionFacts {
  readonly id: string;
  /** Seconds since 1970. */
  readonly created: number;
  readonly model: string;
}

type Completion = z.infer<typeof completionSchema>;
type Chunk = z.infer<typeof chunkSchema>;

/** An answer as a whole completion. */
export function completion(facts: CompletionFacts, answer: ChatAnswer): Completion {
  return {
    ...facts,
    object: 'chat.completion',
    choices: [
      {
        index: 0,
        message: { role: 'assistant', content: answer.answer, refusal: null },
        logprobs: null,
        finish_reason: finishReason(answer),
      },
    ],
    usage: usage(answer),
    ...contextOf(answer),
  };
}

/** An answer as it grows, in chunks; the first one names the role, the last ones what it took. */
export class CompletionChunks {
  readonly #facts: CompletionFacts;
  readonly #includeUsage: boolean;
  #begun = false;

  constructor(facts: CompletionFacts, includeUsage: boolean) {
    this.#facts = facts;
    this.#includeUsage = includeUsage;
  }

  text(content: string): readonly ServerEvent[] {
    return [...this.#begin(), this.#event([choice({ content }, null)])];
  }

  done(answer: ChatAnswer): readonly ServerEvent[] {
    const last = this.#event([choice({}, finishReason(answer))], contextOf(answer));
    const total = this.#event([], { usage: usage(answer), ...contextOf(answer) });
    return [...this.#begin(), last, ...(this.#includeUsage ? [total] : []), { data: '[DONE]' }];
  }

  #begin(): readonly ServerEvent[] {
    if (this.#begun) return [];
    this.#begun = true;
    return [this.#event([choice({ role: 'assistant', content: '' }, null)])];
  }

  #event(choices: Chunk['choices'], more: Pick<Chunk, 'usage' | 'context_id'> = {}): ServerEvent {
    const chunk: Chunk = {
      ...this.#facts,
      object: 'chat.completion.chunk',
      choices,
      ...(this.#includeUsage ? { usage: null } : {}),
      ...more,
    };
    return { data: chunk };
  }
}

function choice(
  delta: Chunk['choices'][number]['delta'],
  finish_reason: Chunk['choices'][number]['finish_reason'],
): Chunk['choices'][number] {
  return { index: 0, delta, logprobs: null, finish_reason };
}

/** Of a cancelled answer nobody is told. */
function finishReason({ finishReason: reason }: ChatAnswer): 'stop' | 'length' {
  return reason === 'length' ? 'length' : 'stop';
}

function usage({ promptTokens, cachedTokens, usage: { completionTokens } }: ChatAnswer) {
  return {
    prompt_tokens: promptTokens,
    completion_tokens: completionTokens,
    total_tokens: promptTokens + completionTokens,
    prompt_tokens_details: { cached_tokens: cachedTokens },
  };
}

function contextOf({ contextId }: ChatAnswer): { readonly context_id?: string } {
  return contextId === undefined ? {} : { context_id: contextId };
}
