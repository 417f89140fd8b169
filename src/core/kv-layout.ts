/**
 * The shape of a model's KV cache. A KV head is a sequence of its own: nothing may assume one
 * length for a layer (docs/ARCHITECTURE.md, idea 1). Heads are numbered
 * `layer * kvHeads + kvHead`.
 */
export interface KvLayout {
  readonly layers: number;
  /** KV heads of a layer. */
  readonly kvHeads: number;
  /** Query heads that share one KV head. */
  readonly group: number;
  /** Elements of one key or value. */
  readonly headDim: number;
}

/** KV heads over all layers. */
export function headCount(layout: KvLayout): number {
  return layout.layers * layout.kvHeads;
}

/** Bytes of `pairs` KV pairs (a key and a value each) at `bytesPerElement`. */
export function pairBytes(layout: KvLayout, pairs: number, bytesPerElement: number): number {
  return pairs * 2 * layout.headDim * bytesPerElement;
}
