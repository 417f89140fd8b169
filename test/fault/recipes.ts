import { loadProse } from '../../eval/datasets.ts';
import { defined } from '../../src/core/assert.ts';
import type { PutRequest } from '../../src/client/types.ts';

/** A document, how it is put, and the question that tells whether what is stored is right. */
export interface Recipe {
  readonly name: string;
  readonly put: Pick<PutRequest, 'document' | 'instructions'> & {
    readonly compression: Required<NonNullable<PutRequest['compression']>>;
  };
  readonly question: string;
}

/** The first four are one family: a store may make the later ones from the first. */
const variants: readonly Omit<Recipe['put'], 'document'>[] = [
  variant('kvzip', 0.6, 'global', 'f32'),
  variant('kvzip', 0.3, 'global', 'f32'),
  variant('kvzip', 0.6, 'global', 'f16'),
  variant('kvzip', 0.2, 'global', 'f16'),
  variant('none', 1, 'global', 'f16'),
  { ...variant('kvzip', 0.4, 'uniform', 'f16'), instructions: 'Answer with one short sentence.' },
  variant('streaming-llm', 0.5, 'global', 'f16'),
  variant('key-norm', 0.5, 'uniform', 'f32'),
];
const variantsOfDocument = 4;

function variant(
  method: string,
  keepRatio: number,
  budget: string,
  precision: string,
): Omit<Recipe['put'], 'document'> {
  return { compression: { method, keepRatio, budget, precision } };
}

/** `count` ways to put short documents, four of each document, no two alike. */
export function createRecipes(count: number): readonly Recipe[] {
  const documents = loadProse().filter(({ split }) => split === 'prose');
  return Array.from({ length: count }, (_, i) => {
    const { id, document, questions } = defined(
      documents[Math.floor(i / variantsOfDocument)],
      'a document for each recipe',
    );
    const put = { document, ...defined(variants[i % variants.length], 'a variant') };
    const { method, keepRatio, budget, precision } = put.compression;
    return {
      name: `${id} ${method} ${keepRatio} ${budget} ${precision}`,
      put,
      question: defined(questions[0], 'a question').question,
    };
  });
}
