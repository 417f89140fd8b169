import { ReadonceError } from '../core/errors.ts';
import { conversationTurns, turnsBelowDocument, type ChatMessage } from './turns.ts';

/**
 * From how many characters on a message that is not stored is taken for a document: about 128
 * tokens. A shorter one is more likely an instruction or a question.
 */
export const minDocumentCharacters = 512;

/** The messages of a chat that names no context, read in one way. */
export interface ChatReading {
  /** Trimmed, not empty; undefined: an ordinary chat. */
  readonly document: string | undefined;
  /** Trimmed, not empty. */
  readonly instructions: string | undefined;
  /** As `EngineQuery.turns`. */
  readonly turns: readonly ChatMessage[];
}

/** A reading that begins with a document. */
export interface DocumentReading extends ChatReading {
  readonly document: string;
}

/** What the messages of a chat may be. */
export interface ChatPlan {
  /** What is looked up among the contexts, in this order; each has a question behind it. */
  readonly documents: readonly DocumentReading[];
  /**
   * Which of `documents` is put if none is stored and the client wants one stored; undefined if
   * there are none.
   */
  readonly toStore: DocumentReading | undefined;
  /** None of `documents` is long: looking them all up costs next to nothing. */
  readonly isShort: boolean;
  /**
   * What the chat is if nothing of it is stored: one with a document, if that is long.
   * @throws ReadonceError `invalid_argument`, whose path names the message
   */
  unstored(): ChatReading;
}

/**
 * Finds the documents that a chat may begin with: its first message, or a user's message behind
 * instructions. A document must have a question, that is a user's message, behind it; a text that
 * ends the chat is a question itself.
 */
export function planChat(messages: readonly ChatMessage[]): ChatPlan {
  const begun = [withDocumentFirst(messages), withInstructions(messages)];
  const beginnings = begun.filter((beginning) => beginning !== undefined);
  const long = beginnings.find(isLong);
  const documents = beginnings.flatMap((beginning) => valid(beginning) ?? []);
  return {
    documents,
    toStore: documents.find(isLong) ?? documents[0],
    isShort: long === undefined,
    unstored: () => (long === undefined ? ordinaryChat(messages) : readingOf(long)),
  };
}

/** Where a chat's document is. */
interface Beginning {
  readonly document: string;
  readonly instructions: string | undefined;
  /** What comes behind it, and where the client sees the first of that in its list. */
  readonly later: readonly ChatMessage[];
  readonly firstPlace: number;
}

function withDocumentFirst(messages: readonly ChatMessage[]): Beginning | undefined {
  const [first] = messages;
  const document = textOf(first, ['system', 'user']);
  const later = messages.slice(1);
  if (document === undefined || !hasQuestion(later)) return undefined;
  return { document, instructions: undefined, later, firstPlace: 1 };
}

function withInstructions(messages: readonly ChatMessage[]): Beginning | undefined {
  const [first, second] = messages;
  const document = textOf(second, ['user']);
  const later = messages.slice(2);
  if (first?.role !== 'system' || document === undefined || !hasQuestion(later)) return undefined;
  return { document, instructions: textOf(first, ['system']), later, firstPlace: 2 };
}

/** A message's text, trimmed; undefined if it is blank or of another role. */
function textOf(
  message: ChatMessage | undefined,
  roles: readonly ChatMessage['role'][],
): string | undefined {
  if (message === undefined || !roles.includes(message.role)) return undefined;
  const text = message.content.trim();
  return text === '' ? undefined : text;
}

function isLong({ document }: Pick<Beginning, 'document'>): boolean {
  return document.length >= minDocumentCharacters;
}

function hasQuestion(messages: readonly ChatMessage[]): boolean {
  return messages.some(({ role }) => role === 'user');
}

/** @throws ReadonceError `invalid_argument` */
function readingOf({ later, firstPlace, ...beginning }: Beginning): DocumentReading {
  return { ...beginning, turns: turnsBelowDocument(later, firstPlace) };
}

/** Undefined if what comes behind the document is no conversation. */
function valid(beginning: Beginning): DocumentReading | undefined {
  try {
    return readingOf(beginning);
  } catch (error) {
    if (error instanceof ReadonceError && error.code === 'invalid_argument') return undefined;
    throw error;
  }
}

/** @throws ReadonceError `invalid_argument` */
function ordinaryChat(messages: readonly ChatMessage[]): ChatReading {
  const [first] = messages;
  const firstTurn = first?.role === 'system' ? 1 : 0;
  const turns = conversationTurns(messages.slice(firstTurn), firstTurn);
  return { document: undefined, instructions: textOf(first, ['system']), turns };
}
