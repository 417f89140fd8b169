import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { defined } from '../../src/core/assert.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import type { ModelConfig } from '../../src/model/config.ts';
import { readGguf } from '../../src/model/gguf.ts';
import type { CheckpointSource } from '../../src/model/source.ts';
import { tinyGgufMetadata, writeGgufFile, zeroGgufTensors } from '../support/gguf-file.ts';
import { temporaryFolder } from '../support/tiny-checkpoint.ts';

/** All bytes, the control tokens and a few merges: a short header makes a run quick. */
const vocabSize = 300;

/** What the metadata of `tinyGgufMetadata` says. */
const config: ModelConfig = {
  family: 'llama',
  vocabSize,
  hiddenSize: 32,
  layers: 1,
  queryHeads: 2,
  kvHeads: 1,
  headDim: 16,
  feedForwardSize: 32,
  rmsEpsilon: 1e-5,
  contextLength: 256,
  ropeTheta: 10_000,
  ropeScaling: null,
  tiedHead: true,
  attentionBias: false,
  feedForwardBias: false,
  endTokenIds: [2],
};

const folder = temporaryFolder();
const file = join(folder, 'changed.gguf');

afterAll(() => {
  rmSync(folder, { recursive: true });
});

async function readOrRefuse(): Promise<CheckpointSource | undefined> {
  try {
    return await readGguf(file);
  } catch (error) {
    expect(error).toBeInstanceOf(ReadonceError);
    expect(['invalid_argument', 'unsupported']).toContain((error as ReadonceError).code);
    return undefined;
  }
}

describe('GGUF files', () => {
  it('with some bytes of the header changed are refused with a reason or lie in the file', async () => {
    writeGgufFile(file, tinyGgufMetadata(vocabSize), zeroGgufTensors(config));
    const correct = readFileSync(file);
    const headerBytes = defined((await readGguf(file)).tensors[0], 'tensor').offsetBytes;
    const edit = fc.record({ at: fc.nat(headerBytes - 1), byte: fc.nat(255) });
    await fc.assert(
      fc.asyncProperty(fc.array(edit, { minLength: 1, maxLength: 4 }), async (edits) => {
        const bytes = Buffer.from(correct);
        for (const { at, byte } of edits) bytes.writeUInt8(byte, at);
        writeFileSync(file, bytes);
        const source = await readOrRefuse();
        for (const { offsetBytes, sizeBytes } of source?.tensors ?? []) {
          expect(offsetBytes).toBeGreaterThan(0);
          expect(offsetBytes + sizeBytes).toBeLessThanOrEqual(bytes.byteLength);
        }
      }),
      { numRuns: 150 },
    );
  });
});
