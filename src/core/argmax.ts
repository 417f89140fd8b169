/** Index of the largest of `values[start, end)`, relative to `start`; the lowest one if tied. */
export function argmax(
  values: Float32Array | Float64Array,
  start = 0,
  end = values.length,
): number {
  let best = start;
  for (let i = start + 1; i < end; i++) {
    if ((values[i] as number) > (values[best] as number)) best = i;
  }
  return best - start;
}
