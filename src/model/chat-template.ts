import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { defined } from '../core/assert.ts';
import { ReadonceError } from '../core/errors.ts';
import type { BpeTokenizer } from './bpe-tokenizer.ts';
import type { PromptTemplate } from './checkpoint.ts';
import type { TemplateSource } from './source.ts';

/** Stand for the user's text and the system text while the template is taken apart. */
const userMarker = 'USER-TEXT-GOES-HERE';
const systemMarker = 'SYSTEM-TEXT-GOES-HERE';

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

interface Message {
  readonly role: 'system' | 'user';
  readonly content: string;
}

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
  return {
    suffixIds,
    prefixIds(instructions) {
      const text = instructions?.trim() ?? '';
      if (text === '') return prefix.slice();
      const frame = systemFrame(render, plain);
      return encodePieces([frame.before, text, frame.after], tokenizer);
    },
  };
}

function user(content: string): Message {
  return { role: 'user', content };
}

function createRenderer(source: TemplateSource): (messages: readonly Message[]) => string {
  let template: Template;
  try {
    template = new Template(source.text);
  } catch (error) {
    throw templateError(error);
  }
  return (messages) => {
    try {
      const environment = createEnvironment();
      environment.set('messages', messages);
      environment.set('add_generation_prompt', true);
      environment.set('bos_token', source.bosToken);
      environment.set('eos_token', source.eosToken);
      return String(new Interpreter(environment).run(template.parsed).value);
    } catch (error) {
      throw templateError(error);
    }
  };
}

/**
 * What transformers gives chat templates, but for the clock: a prefix that changes from day to day
 * would make stored contexts unfindable. Templates that ask for the date have a fixed one for this
 * case.
 */
function createEnvironment(): Environment {
  const environment = new Environment();
  const constants = { true: true, false: false, none: null, True: true, False: false, None: null };
  for (const [name, value] of Object.entries(constants)) environment.set(name, value);
  environment.set('range', range);
  environment.set('raise_exception', (message: unknown) => {
    throw new Error(String(message));
  });
  return environment;
}

/** Python's range: from, to (not included) and step; with one argument, to. */
function range(first: number, second?: number, step = 1): readonly number[] {
  const [start, end] = second === undefined ? [0, first] : [first, second];
  return Array.from(
    { length: Math.max(0, Math.ceil((end - start) / step)) },
    (_, i) => start + i * step,
  );
}

function templateError(error: unknown): ReadonceError {
  const reason = error instanceof Error ? error.message : String(error);
  return new ReadonceError(
    'unsupported',
    `Expected a chat template that renders system and user messages but got: ${reason}`,
    { cause: error },
  );
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
function systemFrame(render: (messages: readonly Message[]) => string, plain: Frame): Frame {
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

/**
 * Token ids of pieces of a prompt in which even places (0, 2, …) are the template's and odd ones
 * are ordinary text. Ordinary text that touches, of whichever piece, is tokenised as one.
 */
function encodePieces(pieces: readonly string[], tokenizer: BpeTokenizer): Int32Array {
  const ids: number[] = [];
  let ordinary = '';
  const flush = (): void => {
    ids.push(...tokenizer.encode(ordinary));
    ordinary = '';
  };
  for (const [i, piece] of pieces.entries()) {
    const parts = i % 2 === 0 ? splitControlTokens(piece, tokenizer.controlTokens) : [piece];
    for (const part of parts) {
      const id = i % 2 === 0 ? tokenizer.controlTokens.get(part) : undefined;
      if (id === undefined) {
        ordinary += part;
      } else {
        flush();
        ids.push(id);
      }
    }
  }
  flush();
  return Int32Array.from(ids);
}

/** Cuts a text at control tokens, the longest where several begin; the tokens are parts too. */
function splitControlTokens(
  text: string,
  controlTokens: ReadonlyMap<string, number>,
): readonly string[] {
  if (controlTokens.size === 0) return [text];
  const longestFirst = [...controlTokens.keys()].toSorted((a, b) => b.length - a.length);
  const escaped = longestFirst.map((token) => token.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  return text.split(new RegExp(`(${escaped.join('|')})`)).filter((part) => part !== '');
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
