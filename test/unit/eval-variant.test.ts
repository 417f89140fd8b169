import { describe, expect, it } from 'vitest';
import { studyChecks } from '../../eval/parts/quality.ts';
import { contextKey, contextsFor, fullCache, kvzipAt, variantName } from '../../eval/variant.ts';

const uniform = { method: 'kvzip', budget: 'uniform', keepRatio: 0.3 };
const random = { method: 'random', budget: 'global', keepRatio: 0.3 };

describe('cache variants', () => {
  it('are named by method and keepRatio, and by their budget if it is not the default', () => {
    const names = [fullCache, kvzipAt(0.3), uniform, random].map(variantName);
    expect(names).toEqual(['full', 'kvzip 0.3', 'kvzip 0.3 uniform', 'random 0.3']);
  });

  it('share one context for a method and budget, stored at the largest keepRatio', () => {
    const contexts = contextsFor([fullCache, kvzipAt(0.2), kvzipAt(0.5), kvzipAt(0.3), uniform]);
    expect([...contexts.values()]).toEqual([
      { method: 'none', budget: 'global', keepRatio: 1, precision: 'f16' },
      { method: 'kvzip', budget: 'global', keepRatio: 0.5, precision: 'f16' },
      { method: 'kvzip', budget: 'uniform', keepRatio: 0.3, precision: 'f16' },
    ]);
    expect(contexts.get(contextKey(kvzipAt(0.2)))?.keepRatio).toBe(0.5);
  });
});

describe('the checks of a study', () => {
  const variants = [fullCache, kvzipAt(0.3), kvzipAt(0.2), uniform, random];
  const study = {
    model: 'm',
    name: 'n',
    variants,
    targets: { full: 0.9, kvzip: new Map([[0.3, 0.97]]) },
  };
  const scored = (right: readonly number[]) =>
    variants.map((variant, i) => ({ variant, right: right[i] ?? 0, total: 100 }));

  it('compare the full cache with its target, and the others with the full cache', () => {
    const checks = studyChecks(study, scored([90, 88, 50, 10, 44]));
    expect(checks).toEqual([
      { what: 'm, n: full, right', measured: '90 %', target: '≥ 90 %', passed: true },
      { what: 'm, n: kvzip 0.3, of full', measured: '97.8 %', target: '≥ 97 %', passed: true },
      { what: 'm, n: random 0.3, of full', measured: '48.9 %', target: '< 50 %', passed: true },
    ]);
  });

  it('miss what falls short, and a baseline that does not', () => {
    const checks = studyChecks(study, scored([89, 86, 50, 10, 45]));
    expect(checks.map(({ passed }) => passed)).toEqual([false, false, false]);
  });
});
