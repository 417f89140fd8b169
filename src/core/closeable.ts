/** An owner of something that must be given back. Closing twice is harmless. */
export interface Closeable {
  close(): void;
}
