import { expect, test } from 'vitest';
import { ReadonceError } from '../../src/core/errors.ts';
import {
  defaultCompression,
  resolveCompression,
  type CompressionRequest,
} from '../../src/service/compression.ts';

function refusal(request: CompressionRequest): ReadonceError {
  try {
    resolveCompression(request, defaultCompression);
  } catch (error) {
    if (error instanceof ReadonceError) return error;
    throw error;
  }
  throw new Error('expected the request to be refused');
}

test('what a request leaves out comes from the defaults', () => {
  expect(resolveCompression({}, defaultCompression)).toEqual(defaultCompression);
  const configured = { method: 'random', keepRatio: 0.5, budget: 'uniform', precision: 'f32' };
  expect(resolveCompression({ keepRatio: 0.2 }, configured)).toEqual({
    ...configured,
    keepRatio: 0.2,
  });
});

test('a method that keeps all has keepRatio 1, whatever the default', () => {
  expect(resolveCompression({ method: 'none' }, defaultCompression).keepRatio).toBe(1);
});

test.each<[CompressionRequest, string, string]>([
  [{ method: 'zip' }, 'invalid_argument', 'compression.method'],
  [{ method: 'none', keepRatio: 0.9 }, 'invalid_argument', 'compression.keepRatio'],
  [{ keepRatio: 'auto' }, 'unsupported', 'compression.keepRatio'],
  [{ budget: 'zip' }, 'invalid_argument', 'compression.budget'],
  [{ precision: 'int4' }, 'unsupported', 'compression.precision'],
])('%o is refused as %s, naming the field', (request, code, path) => {
  const error = refusal(request);
  expect(error.code).toBe(code);
  expect(error.details['path']).toBe(path);
});
