// Dealing out work: tiles of every sequence, summed up. On the device, so that lengths may change
// between replays of a CUDA graph.

#include "paged.cuh"

namespace {
constexpr int planThreads = 256;
}

/**
 * For each layer: lengths[s] += newTokens[s / kvHeads], then tileStarts[s] = room on the line
 * (paged.cuh) of all sequences before s, where one that is not empty takes
 * ceil(length / tileKeys) + entryTiles.
 *
 *   lengths     int32 [layers, sequences], in rows; in and out
 *   newTokens   int32 [sequences / kvHeads] or null: rows that this step appends to each unit
 *   tileStarts  int32 [layers, sequences + 1], out; the last is the line's length
 *
 * Launch: grid layers, 256 threads, no dynamic shared memory. Once a step, for all layers.
 */
extern "C" __global__ void __launch_bounds__(planThreads)
    plan(int* lengths, const int* newTokens, int* tileStarts, int sequences, int kvHeads,
         int tileKeys) {
  __shared__ int warpTotals[planThreads / 32];
  lengths += static_cast<int64_t>(blockIdx.x) * sequences;
  tileStarts += static_cast<int64_t>(blockIdx.x) * (sequences + 1);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  int before = 0;
  for (int start = 0; start < sequences; start += planThreads) {
    const int s = start + threadIdx.x;
    int length = s < sequences ? lengths[s] : 0;
    if (newTokens != nullptr && s < sequences) {
      length += newTokens[s / kvHeads];
      lengths[s] = length;
    }
    const int room = length > 0 ? (length + tileKeys - 1) / tileKeys + entryTiles : 0;
    int sum = room;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, sum, step);
      if (lane >= step) sum += other;
    }
    if (lane == 31) warpTotals[warp] = sum;
    __syncthreads();
    int total = 0;
    for (int w = 0; w < planThreads / 32; ++w) {
      if (w < warp) sum += warpTotals[w];
      total += warpTotals[w];
    }
    if (s < sequences) tileStarts[s] = before + sum - room;
    before += total;
    __syncthreads();
  }
  if (threadIdx.x == 0) tileStarts[sequences] = before;
}
