import { closeSync, existsSync, openSync, readSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { packageRoot } from '../../model/embedded.ts';
import { libraryPath, ortVersion } from '../ort/api.ts';

/** ONNX Runtime's CUDA provider: it looks for both beside its own library. */
export const providerFileNames = {
  shared: 'libonnxruntime_providers_shared.so',
  cuda: 'libonnxruntime_providers_cuda.so',
} as const;

const chunkBytes = 4 * 2 ** 20;

/** Folder of ONNX Runtime's library, where the provider belongs. @throws as `libraryPath` */
export function providerFolder(): string {
  return dirname(libraryPath());
}

/** The CUDA kernels as `npm run build:native` leaves them, whether or not they are built. */
export function kernelsPath(): string {
  return join(packageRoot(), 'dist', 'native', 'kernels.fatbin');
}

/** What lies in a provider's folder. */
export interface ProviderFiles {
  readonly folder: string;
  /** Of the two files, those that are not there. */
  readonly missing: readonly string[];
  /** The provider was built for the runtime's very version, as it must be. */
  readonly matches: boolean;
}

/** Looks into a provider's folder; reads the provider once, some hundred MB at most. */
export function findProvider(folder: string, version = ortVersion): ProviderFiles {
  const missing = Object.values(providerFileNames).filter(
    (name) => !existsSync(join(folder, name)),
  );
  const provider = join(folder, providerFileNames.cuda);
  return { folder, missing, matches: missing.length === 0 && namesVersion(provider, version) };
}

/**
 * Whether a library has a version among its strings: the provider keeps the one it was built for as
 * a text of its own, between zero bytes. A file beside it could say that of another provider.
 */
function namesVersion(path: string, version: string): boolean {
  const wanted = Buffer.from(`\0${version}\0`, 'latin1');
  const buffer = Buffer.alloc(wanted.length + chunkBytes);
  const descriptor = openSync(path, 'r');
  try {
    // What may be the beginning of the text is kept for the next chunk.
    let kept = 0;
    for (;;) {
      const read = readSync(descriptor, buffer, kept, buffer.length - kept, null);
      if (read === 0) return false;
      const filled = buffer.subarray(0, kept + read);
      if (filled.includes(wanted)) return true;
      kept = Math.min(filled.length, wanted.length - 1);
      buffer.copyWithin(0, filled.length - kept, filled.length);
    }
  } finally {
    closeSync(descriptor);
  }
}
