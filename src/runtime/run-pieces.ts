import type { Pieces } from './runtime.ts';

/** Runs all of a work's pieces at once, where nobody else wants the device. */
export function runPieces(pieces: Pieces): void {
  for (const piece of pieces) piece();
}
