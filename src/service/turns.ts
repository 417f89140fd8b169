import { defined } from '../core/assert.ts';
import type { ChatMessage } from '../engine/protocol.ts';
import { invalidArgument } from './invalid-argument.ts';

export type { ChatMessage } from '../engine/protocol.ts';

/** Most messages of a conversation; whether they fit the window is the engine's to say. */
export const maxMessages = 256;

type Role = ChatMessage['role'];
const turnRoles: readonly Role[] = ['user', 'assistant'];

/** What a client asks: one question, or a conversation that ends with one. */
export interface Question {
  readonly query?: string | undefined;
  readonly messages?: readonly ChatMessage[] | undefined;
}

/**
 * The turns of a question, with their contents trimmed.
 * @throws ReadonceError `invalid_argument` unless there is either a query or a conversation as
 *   `conversationTurns` wants it
 */
export function questionTurns({ query, messages }: Question): readonly ChatMessage[] {
  if (messages === undefined) return [{ role: 'user', content: queryText(query) }];
  if (query === undefined) return conversationTurns(messages);
  throw invalidArgument('messages', 'Expected either query or messages but got both.');
}

/** Trimmed. @throws ReadonceError `invalid_argument` if there is no text */
function queryText(query: string | undefined): string {
  const text = query?.trim() ?? '';
  if (text !== '') return text;
  throw invalidArgument('query', 'Expected text for query but got nothing, or only white space.');
}

/**
 * The messages as turns: user and assistant in turn, a user first and last, with their contents
 * trimmed.
 * @param firstPlace where the client sees the first of them in its list
 * @throws ReadonceError `invalid_argument`, whose path names the message
 */
export function conversationTurns(
  messages: readonly ChatMessage[],
  firstPlace = 0,
): readonly ChatMessage[] {
  return checkTurns(messages, { firstPlace, firstRole: 'user' });
}

/**
 * The messages as turns below a document that was a message itself: if the assistant goes on at
 * once, the document stands alone in its turn. Otherwise as `conversationTurns`.
 */
export function turnsBelowDocument(
  messages: readonly ChatMessage[],
  firstPlace: number,
): readonly ChatMessage[] {
  if (messages[0]?.role !== 'assistant') return conversationTurns(messages, firstPlace);
  const later = checkTurns(messages, { firstPlace, firstRole: 'assistant' });
  return [{ role: 'user', content: '' }, ...later];
}

function checkTurns(
  messages: readonly ChatMessage[],
  { firstPlace, firstRole }: { readonly firstPlace: number; readonly firstRole: Role },
): readonly ChatMessage[] {
  const roles = firstRole === 'user' ? turnRoles : turnRoles.toReversed();
  const turns = messages.map(({ role, content }, i) => {
    const path = `messages.${firstPlace + i}`;
    checkRole(role, defined(roles[i % 2], 'one of two roles'), `${path}.role`);
    const text = content.trim();
    if (text !== '') return { role, content: text };
    throw invalidArgument(
      `${path}.content`,
      `Expected text for ${path}.content but got nothing, or only white space.`,
    );
  });
  if (turns.at(-1)?.role === 'user') return turns;
  const path = turns.length === 0 ? 'messages' : `messages.${firstPlace + turns.length - 1}.role`;
  throw invalidArgument(path, "Expected a user's message at the end of messages but got none.");
}

function checkRole(role: Role, expected: Role, path: string): void {
  if (role === expected) return;
  const advice =
    role === 'system'
      ? 'Instructions belong to the context: put the document with "instructions".'
      : 'User and assistant alternate, and a user begins.';
  throw invalidArgument(path, `Expected "${expected}" for ${path} but got "${role}". ${advice}`);
}
