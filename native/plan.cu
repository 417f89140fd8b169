// Dealing out work: pieces of every sequence, summed up. On the device, so that lengths may change
// between replays of a CUDA graph.

#include "paged.cuh"

namespace {

constexpr int planThreads = 256;

__device__ __forceinline__ Start operator+(Start a, Start b) {
  return {a.place + b.place, a.part + b.part};
}

}  // namespace

/**
 * For each layer: where sequences begin on the line and among the parts (paged.cuh).
 *
 *   lengths   int32 [layers, sequences], in rows
 *   units     int32 [sequences / kvHeads, 4], of all layers: as attend takes them
 *   starts    int32 [layers, sequences + 1, 2], out
 *
 * Launch: grid layers, 256 threads, no dynamic shared memory. Once a step, for all layers.
 */
extern "C" __global__ void __launch_bounds__(planThreads)
    plan(const int* lengths, const UnitQueries* units, Start* starts, int sequences, int kvHeads,
         int group, int tileKeys) {
  __shared__ Start warpTotals[planThreads / 32];
  lengths += static_cast<int64_t>(blockIdx.x) * sequences;
  starts += static_cast<int64_t>(blockIdx.x) * (sequences + 1);
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  Start before = {0, 0};
  for (int first = 0; first < sequences; first += planThreads) {
    const int s = first + threadIdx.x;
    Start room = {0, 0};
    if (s < sequences) {
      const Pieces pieces(lengths[s], tileKeys, kvHeads);
      const int rows = units[s / kvHeads].count * group;
      room = {pieces.tiles + pieces.count * entryTiles, pieces.count * rows};
    }
    Start sum = room;
    for (int step = 1; step < 32; step *= 2) {
      const Start other = {__shfl_up_sync(0xffffffffu, sum.place, step),
                           __shfl_up_sync(0xffffffffu, sum.part, step)};
      if (lane >= step) sum = sum + other;
    }
    if (lane == 31) warpTotals[warp] = sum;
    __syncthreads();
    Start total = {0, 0};
    for (int w = 0; w < planThreads / 32; ++w) {
      if (w < warp) sum = sum + warpTotals[w];
      total = total + warpTotals[w];
    }
    if (s < sequences) {
      starts[s] = {before.place + sum.place - room.place, before.part + sum.part - room.part};
    }
    before = before + total;
    __syncthreads();
  }
  if (threadIdx.x == 0) starts[sequences] = before;
}
