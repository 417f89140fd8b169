import { describe, expect, it } from 'vitest';
import { kvzip } from '../../src/compression/methods/kvzip.ts';
import { none } from '../../src/compression/methods/none.ts';
import {
  budgets,
  planned,
  precisions,
  resolveBudget,
  resolveKeepRatio,
  resolveMethod,
  resolvePrecision,
  scoringMethods,
} from '../../src/compression/registry.ts';
import { ReadonceError } from '../../src/core/errors.ts';

const kinds = [
  { what: 'method', resolve: resolveMethod, built: scoringMethods, planned: planned.methods },
  { what: 'budget', resolve: resolveBudget, built: budgets, planned: planned.budgets },
  { what: 'precision', resolve: resolvePrecision, built: precisions, planned: planned.precisions },
] as const;

function refusal(action: () => unknown): ReadonceError {
  try {
    action();
  } catch (error) {
    if (error instanceof ReadonceError) return error;
    throw error;
  }
  throw new Error('expected a refusal');
}

describe.each(kinds)('$what names', ({ what, resolve, built, planned }) => {
  it('resolve to what is built', () => {
    for (const [name, value] of built) expect(resolve(name)).toBe(value);
  });

  it('that are planned are unsupported, and not built', () => {
    for (const [name, description] of planned) {
      const error = refusal(() => resolve(name));
      expect(error.code).toBe('unsupported');
      expect(error.message).toContain(`for ${what} but got "${name}"`);
      expect(description).toMatch(/^[A-Z].*\.$/);
      expect(built.has(name)).toBe(false);
    }
  });

  it.each(['nonsense', '', 'KVZIP', 'constructor'])('refuse %j and list what is known', (name) => {
    const error = refusal(() => resolve(name));
    expect(error.code).toBe('invalid_argument');
    expect(error.message).toContain(`got ${JSON.stringify(name)}`);
    for (const known of built.keys()) expect(error.message).toContain(`"${known}"`);
  });
});

describe('the registry', () => {
  it('has what the HTTP contract promises by default', () => {
    expect(resolveMethod('kvzip').name).toBe('kvzip');
    expect(resolveBudget('global').name).toBe('global');
    expect(resolvePrecision('f16').name).toBe('f16');
  });
});

describe('keepRatio', () => {
  const ratio = (method: typeof kvzip, requested: number | string | undefined): number =>
    resolveKeepRatio({ method, requested, byDefault: 0.3 });

  it('is the default when nothing is asked for, but 1 for a method that keeps all', () => {
    expect(ratio(kvzip, undefined)).toBe(0.3);
    expect(ratio(none, undefined)).toBe(1);
  });

  it('is what was asked for, within (0, 1]', () => {
    expect(ratio(kvzip, 0.001)).toBe(0.001);
    expect(ratio(kvzip, 1)).toBe(1);
    expect(ratio(none, 1)).toBe(1);
  });

  it.each([0, -1, 2, Number.NaN, Infinity, 'many', ''])('refuses %j', (requested) => {
    expect(refusal(() => ratio(kvzip, requested)).code).toBe('invalid_argument');
  });

  it('refuses to keep less with a method that keeps all', () => {
    const error = refusal(() => ratio(none, 0.5));
    expect(error.code).toBe('invalid_argument');
    expect(error.message).toContain('"none"');
  });

  it('of "auto" is unsupported', () => {
    expect(refusal(() => ratio(kvzip, 'auto')).code).toBe('unsupported');
  });
});
