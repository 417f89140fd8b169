/**
 * Work that yields between its pieces, each of a few milliseconds at most, and returns its result
 * at the end: whoever runs it does other things in between. Giving up loses nothing but the work.
 */
export type Piecewise<T> = Generator<undefined, T, undefined>;

/** Does all of it at once, where nothing else waits. */
export function atOnce<T>(work: Piecewise<T>): T {
  for (;;) {
    const piece = work.next();
    if (piece.done === true) return piece.value;
  }
}
