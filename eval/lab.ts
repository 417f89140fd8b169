import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CompressionSpec } from '../src/core/compression-spec.ts';
import { EngineHost } from '../src/engine/engine-host.ts';
import { createLogger } from '../src/observability/logger.ts';
import type { WantedDevice } from '../src/runtime/choose-device.ts';
import { openContextStore } from '../storage/open-store.ts';

/** A question to a document that was read. */
export interface LabQuestion {
  readonly contextId: string;
  readonly question: string;
  /** At most what the context was stored with. */
  readonly keepRatio: number;
}

/**
 * An engine in this process, on a store that is thrown away: what a server would answer, without
 * the server. Questions asked at the same time about different contexts are decoded together.
 */
export interface Lab {
  /** Reads a document once; returns the context's id. */
  read(document: string, compression: CompressionSpec): Promise<string>;
  /** The greedy answer, at most `answerTokens` long. */
  ask(question: LabQuestion): Promise<string>;
  /** Ends the engine; then, of each context and head, the document positions that were kept. */
  kept(contextIds: readonly string[]): Promise<readonly (readonly Uint32Array[])[]>;
  close(): Promise<void>;
}

export interface LabOptions {
  readonly model: string;
  readonly cacheFolder: string;
  /** Default: `auto`. */
  readonly device?: WantedDevice;
}

/**
 * Of the answers that are compared three are longer, lists of 49 to 67 tokens, and so can never be
 * right, whatever the cache. Rambling costs little at this length.
 */
const answerTokens = 48;

const storeMaxBytes = 16 * 2 ** 30;
/** Room for a dozen contexts of a short document, loaded side by side. */
const engineLimits = {
  poolBytes: 2 * 2 ** 30,
  maxRunningQueries: 16,
  maxQueryWaitMs: 3_600_000,
  maxSessions: 0,
};

/** @throws ReadonceError of the model, the store or the runtime */
export async function openLab({ model, cacheFolder, device }: LabOptions): Promise<Lab> {
  const storeFolder = await mkdtemp(join(tmpdir(), 'readonce-lab-'));
  const logLevel = 'warn';
  const engine = await EngineHost.start(
    { model, cacheFolder, device, storeFolder, storeMaxBytes, logLevel, ...engineLimits },
    createLogger({ level: logLevel }),
  );
  const signal = new AbortController().signal;
  return {
    async read(document, compression) {
      const { stored } = await engine.ingest({
        request: {
          tenant: '',
          tenantSalt: '',
          document: document.trim(),
          instructions: undefined,
          compression,
          createdAtMs: Date.now(),
          usage: { ttlMs: null, pinned: false, labels: {} },
        },
        onProgress: () => undefined,
        signal,
      });
      return stored.record.id;
    },
    async ask({ contextId, question, keepRatio }) {
      const sampling = {
        maxTokens: answerTokens,
        temperature: 0,
        topP: 1,
        topK: 0,
        seed: 0,
        stop: [],
      };
      const { answer } = await engine.answer({
        query: {
          source: { kind: 'context', contextId, keepRatio },
          tenant: '',
          turns: [{ role: 'user', content: question.trim() }],
          sampling,
        },
        onText: () => undefined,
        signal,
      });
      return answer;
    },
    async kept(contextIds) {
      await engine.close();
      const store = await openContextStore({ folder: storeFolder });
      try {
        return contextIds.map((id) => {
          const heads = store.get(id)?.record.pairCounts.length ?? 0;
          return Array.from({ length: heads }, (_, head) => store.readRanking(id, head).positions);
        });
      } finally {
        await store.close();
      }
    },
    async close() {
      await engine.close();
      await rm(storeFolder, { recursive: true, force: true });
    },
  };
}
