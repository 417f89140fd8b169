/** A source of reproducible random numbers: the same seed gives the same numbers everywhere. */
export interface Random {
  /** A uniform integer in [0, 2^32). */
  nextUint32(): number;
  /** A uniform number in [0, 1), a multiple of 2^-32. */
  next(): number;
}

/**
 * xoshiro128** (Blackman and Vigna, "Scrambled linear pseudorandom number generators", 2021), its
 * four words of state filled by splitmix32 from all 53 bits of an integer seed. Not for secrets.
 */
export function createRandom(seed: number): Random {
  const fill = splitmix32(Math.floor(seed / 2 ** 32) >>> 0, seed >>> 0);
  let a = fill();
  let b = fill();
  let c = fill();
  let d = fill();
  const nextUint32 = (): number => {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0;
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = rotateLeft(d, 11);
    return result;
  };
  return { nextUint32, next: () => nextUint32() / 2 ** 32 };
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits));
}

/** A stream of well-mixed words; the high half of the seed is mixed in before the low half. */
function splitmix32(high: number, low: number): () => number {
  let state = mix((high + 0x9e3779b9) | 0) ^ low;
  return () => {
    state = (state + 0x9e3779b9) | 0;
    return mix(state);
  };
}

/** The finaliser of MurmurHash3: every input bit reaches every output bit. */
function mix(word: number): number {
  let z = word;
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b);
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35);
  return z ^ (z >>> 16);
}
