import { assert, defined } from '../core/assert.ts';
import { concatenate } from '../core/concatenate.ts';
import { ReadonceError } from '../core/errors.ts';
import type { BpeTokenizer } from './bpe-tokenizer.ts';
import type { PromptTemplate } from './checkpoint.ts';
import { createConversation, type Conversation } from './conversation.ts';
import { encodePieces } from './prompt-pieces.ts';
import type { TemplateSource } from './source.ts';
import { createRenderer, type RenderMessages, type TemplateMessage } from './template-renderer.ts';

/** Stand for the user's text and the system text while the template is taken apart. */
const userMarker = 'USER-TEXT-GOES-HERE';
const systemMarker = 'SYSTEM-TEXT-GOES-HERE';

/** Before what a user writes below a document, as one would set a question off from a text. */
const belowDocument = '\n\n';

/**
 * User texts with which the split is tried. Like documents and queries they begin and end without
 * white space: with letters, digits, punctuation and other scripts at the seams.
 */
const probes = [
  'The lease ends in May.',
  'Name the answer',
  '1911',
  '(a) "quoted"?',
  'été',
  '- 東京',
];

/** What stands around the user's text. */
interface Frame {
  readonly before: string;
  readonly after: string;
}

/**
 * Splits a chat template into what comes before and after the user's text. Control tokens of the
 * template's own text are recognised; instructions are ordinary text, tokenised together with the
 * template's text beside them.
 * @throws ReadonceError `unsupported` if the template fails, moves the user's text about, or
 * tokenises differently in one piece
 */
export function createPromptTemplate(
  source: TemplateSource,
  tokenizer: BpeTokenizer,
): PromptTemplate {
  const render = createRenderer(source);
  const plain = splitAt(render([user(userMarker)]), userMarker, 'user');
  const encodeTemplate = (text: string): Int32Array => encodePieces([text], tokenizer);
  const prefix = encodeTemplate(plain.before);
  const suffixIds = encodeTemplate(plain.after);
  for (const probe of probes) {
    const apart = [...prefix, ...tokenizer.encode(probe), ...suffixIds];
    checkSame(apart, encodeTemplate(render([user(probe)])), probe);
  }
  const prefixIds = (instructions: string | undefined): Int32Array => {
    const text = instructions?.trim() ?? '';
    if (text === '') return prefix.slice();
    const frame = systemFrame(render, plain);
    return encodePieces([frame.before, text, frame.after], tokenizer);
  };
  let conversation: Conversation | undefined;
  // Not before it is needed: a template that knows no conversation can still be asked.
  const turnsAfter = (firstIds: Int32Array, later: readonly TemplateMessage[]): Int32Array => {
    if (later.length === 0) return concatenate(firstIds, suffixIds);
    conversation ??= createConversation({ render, tokenizer, ...plain });
    return concatenate(firstIds, conversation.laterIds(later), suffixIds);
  };
  return {
    suffixIds,
    prefixIds,
    turnIds([first, ...later]) {
      const text = defined(first, 'the first turn').content;
      return turnsAfter(tokenizer.encode(text === '' ? '' : belowDocument + text), later);
    },
    followUpIds(turn) {
      conversation ??= createConversation({ render, tokenizer, ...plain });
      return concatenate(conversation.endOfAnswerIds, tokenizer.encode(turn), suffixIds);
    },
    chatIds(messages) {
      const system = messages[0]?.role === 'system' ? messages[0] : undefined;
      const [first, ...later] = system === undefined ? messages : messages.slice(1);
      assert(first?.role === 'user', 'expected a chat to begin with a user');
      return concatenate(
        prefixIds(system?.content),
        turnsAfter(tokenizer.encode(first.content), later),
      );
    },
  };
}

function user(content: string): TemplateMessage {
  return { role: 'user', content };
}

function splitAt(rendered: string, marker: string, role: string): Frame {
  const parts = rendered.split(marker);
  if (parts.length !== 2) {
    throw new ReadonceError(
      'unsupported',
      `Expected the ${role} text once in the rendered chat template but got it ${parts.length - 1} times`,
    );
  }
  return { before: defined(parts[0], 'prefix'), after: defined(parts[1], 'suffix') };
}

/** What stands around the instructions, up to the user's text. */
function systemFrame(render: RenderMessages, plain: Frame): Frame {
  const rendered = render([{ role: 'system', content: systemMarker }, user(userMarker)]);
  const whole = splitAt(rendered, userMarker, 'user');
  if (whole.after !== plain.after) {
    throw new ReadonceError(
      'unsupported',
      'Expected the same chat template text after the user text with and without instructions',
    );
  }
  return splitAt(whole.before, systemMarker, 'system');
}

function checkSame(apart: readonly number[], whole: Int32Array, probe: string): void {
  if (apart.length === whole.length && apart.every((id, i) => id === whole[i])) return;
  throw new ReadonceError(
    'unsupported',
    'Expected the same token ids for the chat template tokenised in pieces and as a whole but ' +
      `got different ones around the user text ${JSON.stringify(probe)}; a document of this ` +
      'model cannot be read once',
  );
}
