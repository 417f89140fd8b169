import { describe, expect, it } from 'vitest';
import {
  documentsPath,
  loadDocuments,
  loadHandWritten,
  loadProse,
  parseDataset,
  readDataset,
} from '../../eval/datasets.ts';

const line = (fields: object = {}): string =>
  JSON.stringify({
    id: 'a',
    document: 'Text.',
    questions: [{ q: 'What?', answers: ['Text'] }],
    ...fields,
  });

const refusal = (code: string, message: RegExp): unknown =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

describe('shipped evaluation documents', () => {
  it('are ten hand-written ones with 50 questions', () => {
    const documents = loadHandWritten();
    expect(documents).toHaveLength(10);
    expect(documents.flatMap(({ questions }) => questions)).toHaveLength(50);
    expect(new Set(documents.map(({ split }) => split))).toEqual(new Set(['hand-written']));
  });

  it('are 64 of prose in three splits', () => {
    const documents = loadProse();
    const ofSplit = (name: string): number =>
      documents.filter(({ split }) => split === name).length;
    expect(documents).toHaveLength(64);
    expect(['prose', 'prose-medium', 'prose-long'].map(ofSplit)).toEqual([40, 16, 8]);
    // The figures that results are compared with count 192 questions on the first 24 documents.
    expect(documents.slice(0, 24).flatMap(({ questions }) => questions)).toHaveLength(192);
  });
});

describe('a data set', () => {
  it('is read line by line, empty lines skipped', () => {
    const full = { id: 'b', split: 'held', genre: 'mail', mixed: true, tokens: 5 };
    const documents = parseDataset(`${line()}\n\n${line(full)}\n`, 'set.jsonl');
    expect(documents.map(({ id, split }) => [id, split])).toEqual([
      ['a', 'hand-written'],
      ['b', 'held'],
    ]);
    expect(documents[0]?.questions).toEqual([{ question: 'What?', answers: ['Text'] }]);
  });

  it.each([
    ['an unknown field', line({ extra: 1 }), /extra/],
    ['an empty document', line({ document: '' }), /document/],
    ['no questions', line({ questions: [] }), /questions/],
    ['a question without answers', line({ questions: [{ q: 'What?', answers: [] }] }), /answers/],
    ['broken JSON', '{"id": ', /Expected JSON for line 2 of set\.jsonl/],
    ['an id that occurred before', line({ id: 'first' }), /new id for line 2 of set\.jsonl/],
  ])('with %s is refused, naming the line', (_, second, message) => {
    const content = `${line({ id: 'first' })}\n${second}`;
    const parse = (): unknown => parseDataset(content, 'set.jsonl');
    expect(parse).toThrow(refusal('invalid_argument', /line 2 of set\.jsonl/));
    expect(parse).toThrow(refusal('invalid_argument', message));
  });

  it('without any document is refused', () => {
    expect(() => parseDataset('\n\n', 'set.jsonl')).toThrow(
      refusal('invalid_argument', /got none/),
    );
  });

  it('of more than 10,000 documents is refused', () => {
    const many = Array.from({ length: 10_001 }, (_, i) => line({ id: `d${i}` })).join('\n');
    expect(() => parseDataset(many, 'set.jsonl')).toThrow(refusal('invalid_argument', /at most/));
  });

  it('that is not there is not found', () => {
    expect(() => readDataset('/nowhere/set.jsonl')).toThrow(refusal('not_found', /nowhere/));
  });
});

describe('the generated documents', () => {
  const environment = { READONCE_EVAL_DOCUMENTS: 'from-environment.jsonl' };

  it('are where the option says, else where the environment does', () => {
    expect(documentsPath({ option: 'given.jsonl', environment })).toBe('given.jsonl');
    expect(documentsPath({ option: undefined, environment })).toBe('from-environment.jsonl');
    expect(documentsPath({ option: undefined, environment: {} })).toBeUndefined();
  });

  it('say how to give them when they are not', () => {
    const load = (): unknown => loadDocuments(undefined);
    expect(load).toThrow(refusal('invalid_argument', /--documents PATH/));
    expect(load).toThrow(refusal('invalid_argument', /READONCE_EVAL_DOCUMENTS/));
  });
});
