import { readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { ReadonceError } from '../src/core/errors.ts';
import { packageRoot } from '../src/model/embedded.ts';

export interface EvalQuestion {
  readonly question: string;
  /** Any of them is right, see `isRight`. At least one. */
  readonly answers: readonly string[];
}

export interface EvalDocument {
  readonly id: string;
  /** Part of its data set, e.g. `prose`; `hand-written` for documents that name none. */
  readonly split: string;
  readonly document: string;
  /** At least one. */
  readonly questions: readonly EvalQuestion[];
}

/** Lines of a file that are read at most: far more than any benchmark gets through. */
const maxDocuments = 10_000;

/** Why there are no generated documents, and what to do about it. */
export const documentsMissing =
  'Expected a path for the generated documents (splits "held", "held-long") but got none. Give ' +
  '--documents PATH or set READONCE_EVAL_DOCUMENTS to a file of JSON lines; none is shipped, ' +
  'since these documents quote texts under licences other than ours.';

const text = z.string().min(1);

const questionSchema = z.strictObject({
  q: text,
  answers: z.array(text).min(1),
  kind: text.optional(),
  unseen_question: z.boolean().optional(),
  unseen_statement: z.boolean().optional(),
});

const documentSchema = z.strictObject({
  id: text,
  split: text.default('hand-written'),
  genre: text.optional(),
  mixed: z.boolean().optional(),
  tokens: z.int().positive().optional(),
  document: text,
  questions: z.array(questionSchema).min(1),
});

/** Ten ordinary documents written by hand, with 50 plain questions. */
export function loadHandWritten(): readonly EvalDocument[] {
  return readDataset(shipped('hand-written.jsonl'));
}

/**
 * Passages with names no model was trained on and questions far from the text's words; splits
 * `prose` (40 documents), `prose-medium` (16) and `prose-long` (8).
 */
export function loadProse(): readonly EvalDocument[] {
  return readDataset(shipped('prose.jsonl'));
}

/**
 * The generated documents, which are not shipped; splits `held`, `held-long`, `indist`,
 * `indist-long`.
 * @param path as `documentsPath` says
 * @throws ReadonceError `invalid_argument` when no path was given, or as `readDataset`.
 */
export function loadDocuments(path: string | undefined): readonly EvalDocument[] {
  if (path === undefined) throw new ReadonceError('invalid_argument', documentsMissing);
  return readDataset(path);
}

export interface DocumentsSource {
  /** Value of `--documents`, which wins. */
  readonly option: string | undefined;
  readonly environment: Readonly<Record<string, string | undefined>>;
}

/** Where the generated documents are; undefined if neither option nor environment says so. */
export function documentsPath({ option, environment }: DocumentsSource): string | undefined {
  const path = option ?? environment['READONCE_EVAL_DOCUMENTS'];
  return path === '' ? undefined : path;
}

/**
 * Reads a file of JSON lines, one document each; empty lines are skipped.
 * @throws ReadonceError `not_found` when the file cannot be read, or as `parseDataset`.
 */
export function readDataset(path: string): readonly EvalDocument[] {
  let content: string;
  try {
    content = readFileSync(path, 'utf8');
  } catch (cause) {
    const message = `Expected a readable file for evaluation documents but got ${path}.`;
    throw new ReadonceError('not_found', message, { cause });
  }
  return parseDataset(content, basename(path));
}

/**
 * Documents of JSON lines, in order.
 * @param source named in messages
 * @throws ReadonceError `invalid_argument` naming the line that is not a document, for an id that
 *   occurs twice, for no document at all and for more than 10,000.
 */
export function parseDataset(content: string, source: string): readonly EvalDocument[] {
  const documents = new Map<string, EvalDocument>();
  for (const [index, line] of content.split('\n').entries()) {
    if (line.trim() === '') continue;
    const place = `line ${index + 1} of ${source}`;
    const document = parseDocument(line, place);
    if (documents.has(document.id)) {
      throw new ReadonceError(
        'invalid_argument',
        `Expected a new id for ${place} but got ${document.id}.`,
      );
    }
    documents.set(document.id, document);
    if (documents.size > maxDocuments) {
      throw new ReadonceError(
        'invalid_argument',
        `Expected at most ${maxDocuments} documents for ${source} but got more.`,
      );
    }
  }
  if (documents.size === 0) {
    throw new ReadonceError(
      'invalid_argument',
      `Expected a document for each line of ${source} but got none.`,
    );
  }
  return [...documents.values()];
}

function parseDocument(line: string, place: string): EvalDocument {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch (cause) {
    throw new ReadonceError('invalid_argument', `Expected JSON for ${place}.`, { cause });
  }
  const parsed = documentSchema.safeParse(value);
  if (!parsed.success) {
    const problems = z.prettifyError(parsed.error);
    throw new ReadonceError('invalid_argument', `Expected a document for ${place}:\n${problems}`);
  }
  const { id, split, document, questions } = parsed.data;
  const asked = questions.map(({ q, answers }) => ({ question: q, answers }));
  return { id, split, document, questions: asked };
}

function shipped(name: string): string {
  return join(packageRoot(), 'eval', 'data', name);
}
