import type { SseEvent } from '../src/client/sse.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { problemCode, type Ask, type Reply, type StreamStep } from './asks.ts';

/** The OpenAI-compatible interface, as far as it is used here. */

const chatPath = '/v1/chat/completions';

interface Usage {
  readonly completion_tokens: number;
  readonly prompt_tokens_details?: { readonly cached_tokens?: number };
}

interface Completion {
  readonly choices: readonly {
    readonly message: { readonly content: string };
    readonly finish_reason: string;
  }[];
  readonly usage: Usage;
}

interface Chunk {
  readonly error?: { readonly code?: string | null };
  readonly choices?: readonly {
    readonly delta?: { readonly content?: string | null };
    readonly finish_reason?: string | null;
  }[];
  readonly usage?: Usage | null;
}

/** A question about a document that comes with it, and is not stored. */
export interface ChatQuestion {
  readonly model: string;
  readonly document: string;
  readonly query: string;
  readonly maxTokens: number;
  /** Whether the answer will be streamed: usage has to be asked for then. */
  readonly streamed: boolean;
}

/** A greedy completion with the document as the system message. */
export function chatAsk({ model, document, query, maxTokens, streamed }: ChatQuestion): Ask {
  return {
    query,
    path: chatPath,
    body: {
      model,
      messages: [
        { role: 'system', content: document },
        { role: 'user', content: query },
      ],
      max_tokens: maxTokens,
      temperature: 0,
      ...(streamed ? { stream_options: { include_usage: true } } : {}),
    },
    read: (body) => readCompletion(body as Completion),
    streamReader: createChunkReader,
  };
}

/**
 * @throws ReadonceError `unsupported` where the interface is not built, since then there is nothing
 *   to compare with
 */
export async function requireChat(url: string): Promise<void> {
  const response = await fetch(new URL(chatPath, url), {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{}',
  });
  const text = await response.text();
  if (response.status !== 404 || problemCode(text) === 'model_not_found') return;
  throw new ReadonceError(
    'unsupported',
    `Expected the server to have POST ${chatPath} for the baseline but got 404. The baseline was ` +
      'not measured, and nothing was compared with it.',
  );
}

function readCompletion({ choices, usage }: Completion): Reply {
  const [choice] = choices;
  return {
    text: choice?.message.content ?? '',
    finishReason: choice?.finish_reason ?? '',
    completionTokens: uncached(usage).completion_tokens,
    firstTokenMs: undefined,
    source: undefined,
  };
}

/** Chunks bring the pieces, then the reason of the end, then usage, then `[DONE]`. */
function createChunkReader(): (event: SseEvent) => StreamStep {
  let text = '';
  let finishReason = '';
  let completionTokens = 0;
  return ({ data }) => {
    if (data === '[DONE]') {
      const measured = { firstTokenMs: undefined, source: undefined };
      return { kind: 'reply', reply: { text, finishReason, completionTokens, ...measured } };
    }
    const chunk: Chunk = JSON.parse(data);
    if (chunk.error !== undefined) return { kind: 'problem', code: chunk.error.code ?? 'unknown' };
    const choice = chunk.choices?.[0];
    finishReason = choice?.finish_reason ?? finishReason;
    if (chunk.usage) completionTokens = uncached(chunk.usage).completion_tokens;
    const piece = choice?.delta?.content ?? '';
    if (piece === '') return { kind: 'nothing' };
    text += piece;
    return { kind: 'piece', text: piece };
  };
}

/** An answer from a stored context is no baseline. */
function uncached(usage: Usage): Usage {
  const cached = usage.prompt_tokens_details?.cached_tokens ?? 0;
  if (cached === 0) return usage;
  throw new ReadonceError(
    'conflict',
    `Expected the baseline to compute the document anew but ${cached} tokens came from a cache.`,
  );
}
