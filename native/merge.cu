// Putting the parts of attention together. Weights of parts that were computed apart combine by
// their maxima and denominators exactly as weights within one do, so a query's result over its
// context and its own tail is the result over both at once.

#include "formats.cuh"
#include "paged.cuh"

namespace {

constexpr int slices = 4;

/** The parts that one launch of attend left. */
struct Parts {
  const float* partials;
  const float* stats;
  const int* tileStarts;
  const UnitQueries* units;
  /** [queries, unitsPerQuery]: units that a query reads; -1 for none. */
  const int* queryUnits;
  int unitsPerQuery;
  int sequences;
  int grid;
  int rows;
};

/** Slots of one query head in one unit: from `first` on, `count` of them, all at row `row`. */
struct SlotRun {
  int64_t first;
  int count;
  int row;
};

__device__ SlotRun slotsOf(const Parts& parts, int unit, int query, int head, int group,
                           int kvHeads) {
  const int sequence = unit * kvHeads + head / group;
  const int from = parts.tileStarts[sequence];
  const int to = parts.tileStarts[sequence + 1];
  if (from == to) return {0, 0, 0};
  const int tiles = parts.tileStarts[parts.sequences];
  const int first = blockOfTile(from, parts.grid, tiles);
  const int last = blockOfTile(to - 1, parts.grid, tiles);
  const int row = (query - parts.units[unit].first) * group + head % group;
  return {slotOf(first, sequence), last - first + 1, row};
}

/** Calls visit(row of partials and stats) for every part of the query head in `parts`. */
template <typename Visit>
__device__ __forceinline__ void forEachPart(const Parts& parts, int kvHeads, int group, int start,
                                            int step, Visit visit) {
  const int query = blockIdx.x;
  for (int i = 0; i < parts.unitsPerQuery; ++i) {
    const int unit = parts.queryUnits[query * parts.unitsPerQuery + i];
    if (unit < 0) continue;
    const SlotRun run = slotsOf(parts, unit, query, blockIdx.y, group, kvHeads);
#pragma unroll 4
    for (int n = start; n < run.count; n += step) {
      visit((run.first + n) * parts.rows + run.row);
    }
  }
}

template <typename T, int headDim>
__device__ void merge(T* out, const Parts& contexts, const Parts& tails, int kvHeads, int group) {
  __shared__ float sliceSums[slices][headDim];
  __shared__ float sliceWeights[slices];
  const int lane = threadIdx.x % 32;
  const int channel = threadIdx.x % headDim;
  const int slice = threadIdx.x / headDim;
  // Each warp finds the maximum for itself: cheaper than waiting for one that does.
  float largest = -INFINITY;
  forEachPart(contexts, kvHeads, group, lane, 32,
              [&](int64_t at) { largest = fmaxf(largest, contexts.stats[2 * at]); });
  forEachPart(tails, kvHeads, group, lane, 32,
              [&](int64_t at) { largest = fmaxf(largest, tails.stats[2 * at]); });
  largest = warpMax(largest);
  const float base = largest == -INFINITY ? 0 : largest;
  float sum = 0;
  float weight = 0;
  const auto add = [&](const Parts& parts, int64_t at) {
    const float by = exp2f(parts.stats[2 * at] - base);
    weight += parts.stats[2 * at + 1] * by;
    sum += parts.partials[at * headDim + channel] * by;
  };
  forEachPart(contexts, kvHeads, group, slice, slices, [&](int64_t at) { add(contexts, at); });
  forEachPart(tails, kvHeads, group, slice, slices, [&](int64_t at) { add(tails, at); });
  sliceSums[slice][channel] = sum;
  if (channel == 0) sliceWeights[slice] = weight;
  __syncthreads();
  if (slice > 0) return;
  for (int other = 1; other < slices; ++other) {
    sum += sliceSums[other][channel];
    weight += sliceWeights[other];
  }
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kvHeads * group + blockIdx.y;
  out[row * headDim + channel] = fromFloat<T>(weight > 0 ? sum / weight : 0);
}

}  // namespace

/**
 * merge_{f16,bf16}_d{64,128}: the result of every query head, from one or two launches of attend
 * over the same queries: contexts with many rows in one, tails in the other, say, or both in one.
 *
 *   out           [queries, kvHeads * group, headDim]; zeros for a query that sees no rows
 *   partials, stats, tileStarts, units, sequences, grid, rows   as given to that launch of attend;
 *                 rows is its suffix r
 *   queryUnits    int32 [queries, unitsPerQuery]: the units that each query reads, -1 for none
 *
 * The second launch's come after the first one's; without one its unitsPerQuery is 0.
 * Launch: grid (queries, kvHeads * group), 4 * headDim threads, no dynamic shared memory.
 */
#define MERGE(name, T, headDim)                                                                   \
  extern "C" __global__ void __launch_bounds__(slices* headDim) merge_##name##_d##headDim(        \
      T* out, const float* partials, const float* stats, const int* tileStarts,                   \
      const UnitQueries* units, const int* queryUnits, int unitsPerQuery, int sequences,          \
      int grid, int rows, const float* partials2, const float* stats2, const int* tileStarts2,    \
      const UnitQueries* units2, const int* queryUnits2, int unitsPerQuery2, int sequences2,      \
      int grid2, int rows2, int kvHeads, int group) {                                             \
    merge<T, headDim>(out,                                                                        \
                      {partials, stats, tileStarts, units, queryUnits, unitsPerQuery, sequences,  \
                       grid, rows},                                                               \
                      {partials2, stats2, tileStarts2, units2, queryUnits2, unitsPerQuery2,       \
                       sequences2, grid2, rows2},                                                 \
                      kvHeads, group);                                                            \
  }

MERGE(f16, __half, 64)
MERGE(f16, __half, 128)
MERGE(bf16, __nv_bfloat16, 64)
MERGE(bf16, __nv_bfloat16, 128)
