// Putting the parts of attention together. Weights of parts that were computed apart combine by
// their maxima and denominators exactly as weights within one do, so a query's result over its
// context and its own tail is the result over both at once.

#include "formats.cuh"
#include "paged.cuh"

namespace {

constexpr int mergeWarps = 8;

/** The parts that attend left; as the kernel documents. */
struct Parts {
  const float* partials;
  const float* stats;
  const Start* starts;
  const UnitQueries* units;
  const int* queryUnits;
  int unitsPerQuery;
};

/** Parts of one query head: `count` of them from row `first` on, `stride` apart. */
struct PartRun {
  int64_t first;
  int count;
  int stride;
};

/** The query head's parts of one unit, or none. */
__device__ __forceinline__ PartRun partsOf(const Parts& parts, int index, int kvHeads, int group) {
  const int query = blockIdx.x;
  const int head = blockIdx.y;
  if (index >= parts.unitsPerQuery) return {0, 0, 0};
  const int unit = parts.queryUnits[query * parts.unitsPerQuery + index];
  if (unit < 0) return {0, 0, 0};
  const int sequence = unit * kvHeads + head / group;
  const int first = parts.starts[sequence].part;
  const int rows = parts.units[unit].count * group;
  const int row = (query - parts.units[unit].first) * group + head % group;
  return {first + row, (parts.starts[sequence + 1].part - first) / rows, rows};
}

/** A running combination of parts: what one warp has seen, a lane its channels of it. */
template <int perLane> struct Combined {
  float largest = -INFINITY;
  float weight = 0;
  float sums[perLane] = {};

  __device__ __forceinline__ void add(float otherLargest, float otherWeight,
                                      const float (&otherSums)[perLane]) {
    const float both = fmaxf(largest, otherLargest);
    // Nothing seen yet on either side: −∞ − −∞ is no number.
    const float base = both == -INFINITY ? 0 : both;
    const float by = fastExp2(largest - base);
    const float otherBy = fastExp2(otherLargest - base);
    largest = both;
    weight = weight * by + otherWeight * otherBy;
#pragma unroll
    for (int i = 0; i < perLane; ++i) sums[i] = sums[i] * by + otherSums[i] * otherBy;
  }
};

/** Adds every mergeWarps-th part of a run, from the warp's own number on. */
template <int headDim>
__device__ __forceinline__ void addRun(Combined<headDim / 32>& all, const Parts& parts,
                                       const PartRun& run) {
  // Parts on their way at once: the loads are the time.
  constexpr int batch = 4;
  const Rows partials = {const_cast<float*>(parts.partials)};
  const float2* stats = reinterpret_cast<const float2*>(parts.stats);
  for (int n = threadIdx.x / 32; n < run.count; n += batch * mergeWarps) {
    float2 stat[batch];
    float sums[batch][headDim / 32] = {};
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const int part = n + i * mergeWarps;
      stat[i] = {-INFINITY, 0};
      if (part < run.count) {
        const int64_t row = run.first + static_cast<int64_t>(part) * run.stride;
        stat[i] = stats[row];
        RowOf<F32, headDim>::read(partials, row, threadIdx.x % 32, sums[i]);
      }
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) all.add(stat[i].x, stat[i].y, sums[i]);
  }
}

template <typename Format, int headDim>
__device__ void merge(void* out, const Parts& parts, int kvHeads, int group) {
  constexpr int perLane = headDim / 32;
  __shared__ Combined<perLane> found[mergeWarps][32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const PartRun runs[] = {partsOf(parts, 0, kvHeads, group), partsOf(parts, 1, kvHeads, group)};
  // What is above was planned long ago and may be read while attend still runs.
  waitForPrevious();
  Combined<perLane> all;
  addRun<headDim>(all, parts, runs[0]);
  addRun<headDim>(all, parts, runs[1]);
  found[warp][lane] = all;
  __syncthreads();
  if (warp > 0) return;
  for (int other = 1; other < mergeWarps; ++other) {
    const Combined<perLane>& theirs = found[other][lane];
    all.add(theirs.largest, theirs.weight, theirs.sums);
  }
#pragma unroll
  for (int i = 0; i < perLane; ++i) {
    all.sums[i] = all.weight == 0 ? 0 : all.sums[i] / all.weight;
  }
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kvHeads * group + blockIdx.y;
  RowOf<Format, headDim>::write({out}, row, lane, all.sums);
}

}  // namespace

/**
 * merge_{f16,bf16}_d{64,128}: the result of every query head.
 *
 *   out           [queries, kvHeads * group, headDim]; zeros for a query that sees no rows
 *   partials, stats, starts, units   as given to attend
 *   queryUnits    int32 [queries, unitsPerQuery]: the units that each query reads, its context and
 *                 its tail, say; -1 for none; unitsPerQuery is at most 2
 *
 * Launch: grid (queries, kvHeads * group), 256 threads, no dynamic shared memory. On sm_90 with
 * programmatic stream serialization behind attend, it begins before attend has ended.
 */
#define MERGE(name, Format, headDim)                                                              \
  extern "C" __global__ void __launch_bounds__(mergeWarps * 32) merge_##name##_d##headDim(        \
      void* out, const float* partials, const float* stats, const Start* starts,                  \
      const UnitQueries* units, const int* queryUnits, int unitsPerQuery, int kvHeads,            \
      int group) {                                                                                \
    merge<Format, headDim>(out, {partials, stats, starts, units, queryUnits, unitsPerQuery},      \
                           kvHeads, group);                                                       \
  }

MERGE(f16, F16, 64)
MERGE(f16, F16, 128)
MERGE(bf16, Bf16, 64)
MERGE(bf16, Bf16, 128)
