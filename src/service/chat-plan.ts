import { conversationTurns, turnsBelowDocument, type ChatMessage } from './turns.ts';

/**
 * From how many characters on a message is taken for a document: about 128 tokens. Below that,
 * reading a text again costs less than looking it up, and it is more likely a question.
 */
export const minDocumentCharacters = 512;

/** What the messages of a chat that names no context are. */
export interface ChatPlan {
  /** Trimmed; undefined: an ordinary chat. */
  readonly document: string | undefined;
  /** Trimmed, not empty. */
  readonly instructions: string | undefined;
  /** As `EngineQuery.turns`. */
  readonly turns: readonly ChatMessage[];
}

/**
 * Finds the document of a chat: a long first message, or a long user's message behind short
 * instructions. It must have a question, that is a user's message, behind it; a long text that ends
 * the chat is a question itself.
 * @throws ReadonceError `invalid_argument`, whose path names the message
 */
export function planChat(messages: readonly ChatMessage[]): ChatPlan {
  const [first, second] = messages;
  if (isDocument(first, ['system', 'user']) && hasQuestion(messages, 1)) {
    return {
      document: first.content.trim(),
      instructions: undefined,
      turns: turnsBelowDocument(messages.slice(1), 1),
    };
  }
  const system = first?.role === 'system' ? first.content.trim() : undefined;
  const instructions = system === '' ? undefined : system;
  if (system !== undefined && isDocument(second, ['user']) && hasQuestion(messages, 2)) {
    return {
      document: second.content.trim(),
      instructions,
      turns: turnsBelowDocument(messages.slice(2), 2),
    };
  }
  const firstTurn = system === undefined ? 0 : 1;
  const turns = conversationTurns(messages.slice(firstTurn), firstTurn);
  return { document: undefined, instructions, turns };
}

function isDocument(
  message: ChatMessage | undefined,
  roles: readonly ChatMessage['role'][],
): message is ChatMessage {
  if (message === undefined || !roles.includes(message.role)) return false;
  return message.content.trim().length >= minDocumentCharacters;
}

function hasQuestion(messages: readonly ChatMessage[], from: number): boolean {
  return messages.slice(from).some(({ role }) => role === 'user');
}
