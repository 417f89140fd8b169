import { headCount } from '../../src/core/kv-layout.ts';
import type { KvLayout } from '../../src/core/kv-layout.ts';
import type { ReconstructionPass, ScoringAccess } from '../../src/compression/method.ts';

export interface FakeAccessOptions {
  /** Document tokens. */
  readonly tokens: number;
  /** Default 8,192. */
  readonly contextLength?: number;
  readonly layout?: KvLayout;
  /** Other ids for another document of the same length. Default 0. */
  readonly firstId?: number;
}

export interface FakeAccess extends ScoringAccess {
  /** Passes run so far, in order. */
  readonly passes: readonly ReconstructionPass[];
}

const smallLayout: KvLayout = { layers: 2, kvHeads: 2, group: 3, headDim: 4 };

/**
 * A model that is not there: text is one token a byte, keys and attention follow from head and
 * token by a formula that tells all of a small document's pairs apart.
 */
export function fakeAccess(options: FakeAccessOptions): FakeAccess {
  const { tokens, contextLength = 8192, layout = smallLayout, firstId = 0 } = options;
  const passes: ReconstructionPass[] = [];
  return {
    layout,
    prefixTokens: 20,
    documentIds: Int32Array.from({ length: tokens }, (_, i) => firstId + i),
    suffixIds: Int32Array.of(-1, -2, -3),
    contextLength,
    encode: (text) => Int32Array.from(Buffer.from(text, 'utf8')),
    documentKeys: (head) =>
      Float32Array.from({ length: tokens * layout.headDim }, (_, i) => Math.sin(head * 1e5 + i)),
    reconstruct: async (pass) => {
      passes.push(pass);
      const chunk = pass.chunkEnd - pass.chunkStart;
      return Float32Array.from({ length: headCount(layout) * chunk }, (_, i) =>
        fakeAttention(Math.floor(i / chunk), pass.chunkStart + (i % chunk)),
      );
    },
    passes,
  };
}

/** What `fakeAccess` says a head's most attentive query pays a document token. */
export function fakeAttention(head: number, position: number): number {
  return Math.fround(1 / (1 + position + head / 10));
}
