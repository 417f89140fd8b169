import { createRequire } from 'node:module';
import { crc32 as zlibCrc32 } from 'node:zlib';

/** CRC-32 of bytes, behind those that `before` is the checksum of; an unsigned 32-bit number. */
export type Crc32 = (bytes: Uint8Array, before?: number) => number;

/** The package that computes the same number several times as fast, where it has been installed. */
const accelerator = '@node-rs/crc32';

/**
 * The checksum of FORMAT.md: CRC-32 with zlib's polynomial. By the accelerator if this platform has
 * one, since checking costs more than all else of reading with zlib's own.
 */
export const crc32: Crc32 = loadAccelerator() ?? zlibCrc32;

function loadAccelerator(): Crc32 | undefined {
  try {
    return (createRequire(import.meta.url)(accelerator) as { readonly crc32: Crc32 }).crc32;
  } catch {
    return undefined;
  }
}
