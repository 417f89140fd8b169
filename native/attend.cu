// Attention of few queries over paged, ragged KV heads: decoding, extending, and many queries on
// one context. Each sequence is split where the even dealing of work happens to cut it (paged.cuh);
// every part leaves an unnormalised sum with its maximum and denominator, and merge.cu puts them
// together. After Dao, FlashAttention-2 (arXiv 2307.08691), and Dao et al., Flash-Decoding (2023);
// reading a shared context once as in Juravsky et al., Hydragen (arXiv 2402.05099); dealing tiles
// without regard to sequences as in Osama et al., Stream-K (arXiv 2301.03598).

#include "attend-rows.cuh"

namespace {

/**
 * Sums up the warps that share rows, into those of keyWarp 0. `scratch` is a stage that everyone
 * has finished with; sums go through it in the order of lanes, so that no bank is asked twice.
 */
template <typename V>
__device__ void combineWarps(RowState<V>& state, float* scratch, float* stats, int rowWarp,
                             int keyWarp) {
  constexpr int warpFloats = 16 * V::headDim;
  const int lane = threadIdx.x % 32;
  const int row = rowWarp * 16 + lane / 4;
  __syncthreads();
  if (keyWarp > 0) {
    float* mine = scratch + ((keyWarp - 1) * V::rowWarps + rowWarp) * warpFloats;
#pragma unroll
    for (int i = 0; i < V::headDim / 2; ++i) mine[i * 32 + lane] = state.sums[i / 4][i % 4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* stat = stats + ((keyWarp - 1) * V::rows + row + 8 * half) * 2;
      if (lane % 4 == 0) {
        stat[0] = state.largest[half];
        stat[1] = state.weights[half];
      }
    }
  }
  __syncthreads();
  if (keyWarp > 0) return;
#pragma unroll 1
  for (int other = 0; other < V::keyWarps - 1; ++other) {
    const float* theirs = scratch + (other * V::rowWarps + rowWarp) * warpFloats;
    float mineBy[2];
    float theirsBy[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* stat = stats + (other * V::rows + row + 8 * half) * 2;
      const float largest = fmaxf(state.largest[half], stat[0]);
      const float base = largest == -INFINITY ? 0 : largest;
      mineBy[half] = fastExp2(state.largest[half] - base);
      theirsBy[half] = fastExp2(stat[0] - base);
      state.largest[half] = largest;
      state.weights[half] = state.weights[half] * mineBy[half] + stat[1] * theirsBy[half];
    }
#pragma unroll
    for (int i = 0; i < V::headDim / 2; ++i) {
      float& sum = state.sums[i / 4][i % 4];
      sum = sum * mineBy[i % 4 / 2] + theirs[i * 32 + lane] * theirsBy[i % 4 / 2];
    }
  }
}

/** Leaves the rows that exist in the part's slot; value scales are applied here. */
template <typename V>
__device__ void writePart(const RowState<V>& state, const AttendArguments& a, int sequence,
                          int rowWarp) {
  const int lane = threadIdx.x % 32;
  const int present = a.units[sequence / a.kvHeads].count * a.group;
  const float* scales = a.valueScales + static_cast<int64_t>(sequence) * V::headDim;
  const int64_t slot = slotOf(blockIdx.x, sequence);
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = rowWarp * 16 + lane / 4 + 8 * half;
    if (row >= present) continue;
    float* target = a.partials + (slot * V::rows + row) * V::headDim;
#pragma unroll
    for (int tile = 0; tile < V::headDim / 8; ++tile) {
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        const int channel = channelOf<V>(tile, pair);
        float sum = state.sums[tile][2 * half + pair];
        if constexpr (isChannelScaled<typename V::Format>) sum *= scales[channel];
        target[channel] = sum;
      }
    }
    if (lane % 4 == 0) {
      float* stat = a.stats + (slot * V::rows + row) * 2;
      stat[0] = state.largest[half];
      stat[1] = state.weights[half];
    }
  }
}

template <typename V> __device__ void attend(const AttendArguments& a) {
  extern __shared__ __align__(128) char shared[];
  allowNext();
  const Shares shares(gridDim.x, a.tileStarts[a.sequences]);
  const bool hasShare = blockIdx.x < shares.blocks;
  const int begin = hasShare ? shares.begin(blockIdx.x) : 0;
  const int end = hasShare ? shares.begin(blockIdx.x + 1) : 0;
  TileCursor at(a, sequenceAt<V::threads>(a, begin), begin);
  // The share may be nothing but the room for entering.
  if (at.place >= end) {
    // Whoever waits for this kernel relies on it to have waited for the one before.
    waitForPrevious();
    return;
  }
  const int rowWarp = threadIdx.x / 32 % V::rowWarps;
  const int keyWarp = threadIdx.x / 32 / V::rowWarps;
  TileCopier<V> copier(a, at);
  int fillStage = 0;
  const auto copyNext = [&] {
    if (copier.at.place < end) {
      copier.copy(a, sharedAddress(shared + fillStage * V::stageBytes));
      fillStage = fillStage + 1 == V::stages ? 0 : fillStage + 1;
      copier.at.advance(a.sequences);
      if (copier.at.place < end) copier.lookUp(a);
    }
    // An empty group keeps the count of groups right.
    commitCopies();
  };
  // What is above was planned before this step's first kernel; queries and new rows were not.
  waitForPrevious();
  for (int i = 0; i < V::stages - 1; ++i) copyNext();
  RowState<V> state;
  enterSequence<V>(state, a, at.sequence, at.length, rowWarp);
  for (int i = 0;; i = i + 1 == V::stages ? 0 : i + 1) {
    waitCopies<V::stages - 2>();
    // Now this tile is here for all, and all have finished with the stage to be filled next.
    __syncthreads();
    copyNext();
    char* stage = shared + i * V::stageBytes;
    addTile<V>(state, a, stage, at.tile * V::tileKeys, keyWarp);
    const int sequence = at.sequence;
    const bool isPartsLast = at.place + 1 == at.end || at.place + 1 == end;
    if (isPartsLast) {
      state.weights[0] = quadSum(state.weights[0]);
      state.weights[1] = quadSum(state.weights[1]);
      if constexpr (V::keyWarps > 1) {
        float* stats = reinterpret_cast<float*>(shared + V::stages * V::stageBytes);
        combineWarps<V>(state, reinterpret_cast<float*>(stage), stats, rowWarp, keyWarp);
      }
      if (keyWarp == 0) writePart<V>(state, a, sequence, rowWarp);
    }
    at.advance(a.sequences);
    if (at.place >= end) return;
    if (isPartsLast) enterSequence<V>(state, a, at.sequence, at.length, rowWarp);
  }
}

}  // namespace

/**
 * attend_{f16,bf16,i8c,i8r}_d{64,128}_r{16,64,128}: one layer. The suffix r is the most rows,
 * queries times group, that a unit may have; i8c has channel scales, i8r row scales.
 *
 *   queries      [all queries, kvHeads * group, headDim]; f16, or bf16 for bf16 pools
 *   keys, values pools, [blocks, blockSize, headDim]
 *   keyLargest, valueLargest   f16 [blocks, blockSize]; i8r only
 *   keyScales, valueScales     f32 [sequences, headDim]; i8c only
 *   table        int32 [sequences, maxBlocks]
 *   lengths      int32 [sequences], rows; 0 is allowed
 *   tileStarts   int32 [sequences + 1], from `plan` with tileKeys 64, or 128 for i8c and i8r
 *   units        int32 [sequences / kvHeads, 4]: first query, queries, causal (0 or 1), unused
 *   partials     f32 [grid + sequences, r, headDim], out: unnormalised sums
 *   stats        f32 [grid + sequences, r, 2], out: largest logit (base 2), denominator
 *   scaleLog2    log2(e) / sqrt(headDim)
 *
 * Launch: grid as many blocks as are resident at once (the occupancy call says how many; more is
 * slower, fewer is right too), 128 threads for r16 and else 256, dynamic shared memory as README.md
 * lists. The grid must be the one given to `merge`. On sm_90 it may be launched with programmatic
 * stream serialization, if table, lengths, tileStarts and units were complete before the kernel
 * ahead of it (append, say) began.
 */
#define ATTEND(name, Format, headDim, rows)                                                       \
  extern "C" __global__ void __launch_bounds__(Variant<Format, headDim, rows>::threads,           \
                                               Variant<Format, headDim, rows>::blocksPerSm)       \
      attend_##name##_d##headDim##_r##rows(                                                       \
          const void* queries, const void* keys, const void* values, const __half* keyLargest,    \
          const __half* valueLargest, const float* keyScales, const float* valueScales,           \
          const int* table, const int* lengths, const int* tileStarts, const UnitQueries* units,  \
          float* partials, float* stats, int sequences, int kvHeads, int group, int maxBlocks,    \
          int blockShift, float scaleLog2) {                                                      \
    attend<Variant<Format, headDim, rows>>(                                                       \
        {queries,  keys,    values, keyLargest, valueLargest, keyScales, valueScales,             \
         table,    lengths, tileStarts, units,  partials,     stats,     sequences,               \
         kvHeads,  group,   maxBlocks,  blockShift, scaleLog2});                                  \
  }

#define ATTEND_ROWS(name, Format, headDim) \
  ATTEND(name, Format, headDim, 16)        \
  ATTEND(name, Format, headDim, 64)        \
  ATTEND(name, Format, headDim, 128)

#define ATTEND_HEAD_DIMS(name, Format) \
  ATTEND_ROWS(name, Format, 64)        \
  ATTEND_ROWS(name, Format, 128)

ATTEND_HEAD_DIMS(f16, F16)
ATTEND_HEAD_DIMS(bf16, Bf16)
ATTEND_HEAD_DIMS(i8c, I8Channel)
ATTEND_HEAD_DIMS(i8r, I8Row)
