import { setImmediate as nextTurn } from 'node:timers/promises';
import type { ContextRecord } from '../src/core/context.ts';
import { ReadonceError } from '../src/core/errors.ts';
import { findContext } from './catalogue.ts';
import type { Fault, VerifiedContext, VerifyOptions } from './context-store.ts';
import type { Environment } from './environment.ts';
import { faultOf } from './fault.ts';
import { idOfKey } from './keys.ts';
import { quarantineContext, type QuarantineDeps } from './quarantine.ts';
import { readPairs, readRanking, readTokenIds } from './reader.ts';

/** See `ContextStore.verify`. Contexts that come meanwhile are left out, as those that go. */
export async function* verifyContexts(
  deps: QuarantineDeps,
  options: VerifyOptions,
): AsyncGenerator<VerifiedContext> {
  const { env } = deps;
  const ids = env.read((transaction) =>
    Array.from(env.tables.catalogue.getKeys({ start: Buffer.from([0]), transaction }), idOfKey),
  );
  for (const id of ids) {
    const found = await verifyContext(env, id);
    if (found === 'gone') continue;
    if (found.fault !== undefined && options.quarantine === true) {
      quarantineContext(deps, id, found.fault);
    }
    yield found;
  }
}

async function verifyContext(env: Environment, id: string): Promise<VerifiedContext | 'gone'> {
  try {
    const found = env.read((snapshot) => findContext(env, id, snapshot));
    if (found === undefined) return 'gone';
    readTokenIds(env, id);
    for (const head of found.record.pairCounts.keys()) {
      const fault = rankingFault(env, found.record, head);
      if (fault !== undefined) return { id, fault };
      for (const _piece of readPairs(env, { id, head, range: {} }, () => undefined));
      await nextTurn();
    }
    return { id, fault: undefined };
  } catch (error) {
    if (!(error instanceof ReadonceError)) throw error;
    if (error.code === 'not_found') return 'gone';
    if (error.code !== 'corrupt_record') throw error;
    return { id, fault: faultOf(error) };
  }
}

/** A ranking that cannot be: it names tokens that the document does not have, or twice. */
function rankingFault(env: Environment, record: ContextRecord, head: number): Fault | undefined {
  const { positions } = readRanking(env, record.id, head);
  const outside = positions.some((position) => position >= record.document.tokens);
  if (!outside && new Set(positions).size === positions.length) return undefined;
  return { reason: `a ranking of tokens that cannot be (head ${head})` };
}
