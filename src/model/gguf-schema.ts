import { z } from 'zod';

/** A number of GGUF metadata; those of 64 bits come as bigints. */
export const ggufNumber = z.union([z.number(), z.bigint().transform(Number)]);

/** A token id of GGUF metadata. */
export const ggufTokenId = ggufNumber.pipe(z.int().nonnegative());
