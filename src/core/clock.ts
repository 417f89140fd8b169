/** Time as a dependency, so that expiry and timings can be tested. */
export interface Clock {
  /** Wall clock, milliseconds since the Unix epoch. */
  nowMs(): number;
  /** Monotonic clock for durations, milliseconds. */
  monotonicMs(): number;
}

/** The machine's own clocks; tests pass others. */
export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};
