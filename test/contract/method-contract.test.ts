import { describe, expect, it } from 'vitest';
import { scoringMethods } from '../../src/compression/registry.ts';
import { headCount } from '../../src/core/kv-layout.ts';
import { fakeAccess } from './method-contract-access.ts';

describe.each([...scoringMethods])('scoring method %s', (name, method) => {
  it('carries its registered name, a version and a one-sentence description', () => {
    expect(method.name).toBe(name);
    expect(name).toMatch(/^[a-z][a-z0-9-]*$/);
    expect(method.version).toSatisfy(Number.isInteger);
    expect(method.version).toBeGreaterThan(0);
    expect(method.description).toMatch(/^[A-Z].*\.$/);
    if (method.paper !== null) expect(method.paper).toMatch(/^arXiv \d{4}\.\d{5}$/);
  });

  it.each([1, 7, 300])('gives a finite score to each pair of %i tokens', async (tokens) => {
    const access = fakeAccess({ tokens });
    const scores = await method.score(access);
    expect(scores).toBeInstanceOf(Float32Array);
    expect(scores).toHaveLength(headCount(access.layout) * tokens);
    expect(scores.every((score) => Number.isFinite(score))).toBe(true);
  });

  it('gives the same scores every time', async () => {
    const once = await method.score(fakeAccess({ tokens: 50 }));
    const again = await method.score(fakeAccess({ tokens: 50 }));
    expect(again).toEqual(once);
  });

  it('tells pairs apart unless it keeps all', async () => {
    const scores = await method.score(fakeAccess({ tokens: 300 }));
    const distinct = new Set(scores).size;
    if (method.keepsAll) expect(distinct).toBe(1);
    else expect(distinct).toBeGreaterThan(200);
  });

  it('changes nothing that it was given', async () => {
    const access = fakeAccess({ tokens: 50 });
    const keys = access.documentKeys(0);
    const before = { ids: access.documentIds.slice(), keys: keys.slice() };
    await method.score({ ...access, documentKeys: () => keys });
    expect(access.documentIds).toEqual(before.ids);
    expect(keys).toEqual(before.keys);
  });

  it('reconstructs each token once, in order, exactly if it has a chunk size', async () => {
    const access = fakeAccess({ tokens: 5000 });
    const chunkTokens = method.chunkTokens(access);
    await method.score(access);
    const expected =
      chunkTokens === 0 ? 0 : Math.ceil(access.documentIds.length / Math.max(chunkTokens, 1));
    expect(access.passes).toHaveLength(expected);
    let next = 0;
    for (const { chunkStart, chunkEnd } of access.passes) {
      expect(chunkStart).toBe(next);
      expect(chunkEnd - chunkStart).toBeLessThanOrEqual(chunkTokens);
      next = chunkEnd;
    }
    expect(next).toBe(chunkTokens === 0 ? 0 : 5000);
  });

  it('refuses a document that fills the window exactly if it reconstructs', () => {
    const full = fakeAccess({ tokens: 8100 });
    const reconstructs = method.chunkTokens(fakeAccess({ tokens: 10 })) > 0;
    if (reconstructs) {
      expect(() => method.chunkTokens(full)).toThrow(
        expect.objectContaining({ code: 'context_too_long' }),
      );
    } else {
      expect(method.chunkTokens(full)).toBe(0);
    }
  });
});
