import { Environment, Interpreter, Template } from '@huggingface/jinja';
import { ReadonceError } from '../core/errors.ts';
import type { TemplateSource } from './source.ts';

/** One message of a conversation, as chat templates take it. */
export interface TemplateMessage {
  readonly role: 'system' | 'user' | 'assistant';
  readonly content: string;
}

/** The text of a conversation, up to where the assistant goes on. */
export type RenderMessages = (messages: readonly TemplateMessage[]) => string;

/**
 * Renders conversations with a model's template.
 * @throws ReadonceError `unsupported` for no Jinja, or, when it renders, what the template refuses
 */
export function createRenderer(source: TemplateSource): RenderMessages {
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
