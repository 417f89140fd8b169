import { untilAborted } from '../core/until-aborted.ts';
import type { Claim, LoadedContext } from './loaded-context.ts';
import { waitedTooLong, type Scheduler } from './scheduler.ts';

/** How a query waits for its context. */
export interface LoadCall {
  readonly claim: Claim;
  /** Called at the beginning of each piece. */
  readonly onPiece: () => void;
  /** How long it may still wait for what others began. */
  readonly leftMs: () => number;
  readonly maxWaitMs: number;
  readonly signal: AbortSignal;
}

/**
 * Has a context loaded in pieces, between which others compute. The claim stays the caller's to
 * close.
 * @throws ReadonceError as `Claim.advance`, and `overloaded` if what another query began to load
 * takes longer than this one may wait; the signal's reason
 */
export async function loadContext(scheduler: Scheduler, call: LoadCall): Promise<LoadedContext> {
  const { claim, onPiece, signal } = call;
  const advance = (): LoadedContext | undefined => {
    onPiece();
    return claim.advance();
  };
  for (;;) {
    const context = await scheduler.load(advance, signal);
    if (context !== undefined) return context;
    await untilReady(call);
  }
}

async function untilReady({ claim, leftMs, maxWaitMs, signal }: LoadCall): Promise<void> {
  if (!claim.isBehindOther) return untilAborted(claim.ready(), signal);
  if (leftMs() === 0) throw waitedTooLong(maxWaitMs);
  const patience = AbortSignal.timeout(leftMs());
  try {
    await untilAborted(claim.ready(), AbortSignal.any([signal, patience]));
  } catch (error) {
    throw patience.aborted && !signal.aborted ? waitedTooLong(maxWaitMs) : error;
  }
}
