import { setTimeout as delay } from 'node:timers/promises';
import type { Clock } from '../src/core/clock.ts';
import type { StoredContext } from '../src/core/context.ts';
import { findContext, intact } from './catalogue.ts';
import { requireMark, type Claim } from './claim.ts';
import type { Environment } from './environment.ts';
import { isBeingWorkedOn, putMark, releaseClaim, removeMark } from './unfinished.ts';

/** An id whose context this process is about to make. */
export interface Reservation {
  /** Others may make it. Idempotent. */
  release(): void;
}

/**
 * The generation that the mark of a reservation stands for: it never has pieces, and writes begin
 * at 1.
 */
export const reservedGeneration = 0;

/** How often a process looks whether the one that reserved an id is done. */
const reservedPollMs = 100;

/** See `ContextStore.reserve`. */
export async function reserveId(
  { env, clock }: { readonly env: Environment; readonly clock: Clock },
  id: string,
  signal: AbortSignal | undefined,
): Promise<StoredContext | Reservation> {
  const of = { id, generation: reservedGeneration };
  for (;;) {
    signal?.throwIfAborted();
    const claim = env.transact(() => {
      // A broken record is the write's to move aside.
      const stored = intact(() => findContext(env, id)?.stored);
      if (stored !== undefined) return stored;
      const nowMs = clock.nowMs();
      return isBeingWorkedOn(env, of, nowMs) ? undefined : putMark(env, of, nowMs);
    });
    if (claim === undefined) {
      await delay(reservedPollMs, undefined, signal === undefined ? {} : { signal });
      continue;
    }
    if ('record' in claim) return claim;
    return { release: () => release(env, claim) };
  }
}

function release(env: Environment, claim: Claim): void {
  releaseClaim(claim);
  try {
    env.transact(() => {
      requireMark(env, claim);
      removeMark(env, claim);
    });
  } catch {
    // Somebody else has it, or the disk is full: a mark that stays counts as nobody's.
  }
}
