import type { Pieces } from '../runtime/runtime.ts';
import type { LoadedContexts } from './loaded-contexts.ts';

/**
 * Runs the pieces of a call of the runtime, which appends to a cache, each when it is its turn.
 * Where memory runs out an idle context gives way, and they are run again from the first one on.
 * @param run settles when a piece is done
 * @throws what the call or a piece fails with
 */
export async function runPiecesWithRoom(
  loaded: Pick<LoadedContexts, 'withRoom'>,
  call: () => Pieces,
  run: (piece: () => void) => Promise<void>,
): Promise<void> {
  let failed: { readonly error: unknown } | undefined;
  for (;;) {
    const pieces = loaded.withRoom(() => {
      const last = failed;
      failed = undefined;
      // It is judged here, where others give way or it goes on.
      if (last !== undefined) throw last.error;
      return call();
    });
    try {
      for (const piece of pieces) await run(piece);
      return;
    } catch (error) {
      failed = { error };
    }
  }
}
