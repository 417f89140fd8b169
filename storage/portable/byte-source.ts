import { createHash } from 'node:crypto';
import { decodeFrame, frameHeaderBytes, framePayloadBytes, type FrameHeader } from '../frame.ts';
import { ReadonceError } from '../../src/core/errors.ts';
import { damaged, digestBytes, portableLimits, rowsPerFrame } from './format.ts';

/**
 * A file read once from front to back, in pieces of known size. Holds no more than what was asked
 * for and the part of the stream that came last.
 */
export class ByteSource {
  readonly #parts: AsyncIterator<Uint8Array>;
  readonly #digest = createHash('sha256');
  /** Came and was not read yet. */
  #rest: Uint8Array = new Uint8Array();

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#parts = stream[Symbol.asyncIterator]();
  }

  /** The next `length` bytes. @throws ReadonceError `invalid_argument` if the file ends before */
  async read(length: number): Promise<Buffer> {
    const bytes = await this.#take(length);
    this.#digest.update(bytes);
    return bytes;
  }

  /**
   * The next frame, not verified; its length is checked before anything is held.
   * @param maxBytes of header and payload
   */
  async readFrame(maxBytes: number): Promise<Buffer> {
    const header = await this.read(frameHeaderBytes);
    const payloadBytes = framePayloadBytes(header);
    if (payloadBytes > maxBytes - frameHeaderBytes) throw damaged('a frame that is too long');
    return Buffer.concat([header, await this.read(payloadBytes)]);
  }

  /** Reads the digest that ends the file, and nothing must follow. */
  async readEnd(): Promise<void> {
    const expected = this.#digest.digest();
    const found = await this.#take(digestBytes);
    if (!expected.equals(found)) throw damaged('a wrong SHA-256');
    if (this.#rest.byteLength > 0 || (await this.#more())) throw damaged('bytes behind its end');
  }

  /** Leaves the stream where it is. */
  async close(): Promise<void> {
    this.#rest = new Uint8Array();
    await this.#parts.return?.();
  }

  async #take(length: number): Promise<Buffer> {
    const bytes = Buffer.alloc(length);
    let filled = 0;
    while (filled < length) {
      if (this.#rest.byteLength === 0 && !(await this.#more())) {
        throw damaged('a file that ends too early');
      }
      const part = this.#rest.subarray(0, length - filled);
      bytes.set(part, filled);
      filled += part.byteLength;
      this.#rest = this.#rest.subarray(part.byteLength);
    }
    return bytes;
  }

  /** Waits for bytes; false at the end of the stream. */
  async #more(): Promise<boolean> {
    try {
      do {
        const next = await this.#parts.next();
        if (next.done === true) return false;
        this.#rest = next.value;
      } while (this.#rest.byteLength === 0);
      return true;
    } catch (error) {
      if (error instanceof ReadonceError) throw error;
      throw damaged('a transfer that broke off', {}, error);
    }
  }
}

/** A frame of a run, verified. */
export interface RunPart {
  readonly firstRank: number;
  readonly count: number;
  /** Column by column; a view of the frame. */
  readonly payload: Uint8Array;
}

/** What a frame of a run must be. */
export interface ExpectedPart extends Omit<FrameHeader, 'count'> {
  /** Rows of the whole run. */
  readonly rows: number;
  readonly rowBytes: number;
}

/** Rows of the frame that begins at `firstRank`: as many as fit, or what is left. */
export function rowsOfPart({ rows, rowBytes, firstRank }: ExpectedPart): number {
  return Math.min(rowsPerFrame(rowBytes), rows - firstRank);
}

/** Verifies a frame against its place. @throws ReadonceError `invalid_argument` */
export function decodePart(frame: Buffer, expected: ExpectedPart): RunPart {
  const { kind, layer, head, firstRank, rowBytes } = expected;
  const place = { kind, layer, head, firstRank };
  const { count, payload } = intactFrame(() => decodeFrame(frame, expected));
  if (count !== rowsOfPart(expected)) throw damaged('a wrong number of rows', place);
  if (payload.byteLength !== count * rowBytes) throw damaged('rows of another size', place);
  return { firstRank, count, payload };
}

/** Runs `decode`; what the frame's own checks find is the file's fault, not the store's. */
export function intactFrame<T>(decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    if (!(error instanceof ReadonceError) || error.code !== 'corrupt_record') throw error;
    const { id: _, reason, ...place } = error.details;
    throw damaged(String(reason), place, error);
  }
}

/** Reads a run frame by frame; `frame` is the whole of it, `part` what it says. */
export async function* readRun(
  source: ByteSource,
  run: Omit<ExpectedPart, 'firstRank'>,
): AsyncGenerator<{ readonly frame: Buffer; readonly part: RunPart }> {
  for (let firstRank = 0; firstRank < run.rows;) {
    const frame = await source.readFrame(portableLimits.frameBytes);
    const part = decodePart(frame, { ...run, firstRank });
    yield { frame, part };
    firstRank += part.count;
  }
}
