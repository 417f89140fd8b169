// Attention of few queries over paged, ragged KV heads: decoding, extending, and many queries on
// one context. Each sequence is cut into pieces (paged.cuh); every piece leaves an unnormalised sum
// with its maximum and denominator, and merge.cu puts them together. After Dao, FlashAttention-2
// (arXiv 2307.08691), and Dao et al., Flash-Decoding (2023); reading a shared context once as in
// Juravsky et al., Hydragen (arXiv 2402.05099). That pieces are cut by a sequence's own length, and
// not where an even dealing of the work would cut, is what makes results independent of company.

#include "attend-rows.cuh"

namespace {

/** Leaves the rows that exist in the piece's part; value scales are applied here. */
template <typename V>
__device__ void writePart(const RowState<V>& state, const AttendArguments& a, const TileCursor& at,
                          const WarpRole<V>& role) {
  const int present = a.units[at.sequence / a.kvHeads].count * a.group;
  const float* scales = a.valueScales + static_cast<int64_t>(at.sequence) * V::headDim;
  const int64_t part = a.starts[at.sequence].part + static_cast<int64_t>(at.piece()) * present;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float weight = quadSum(state.weights[half]);
    const int row = role.row(half);
    if (row >= present) continue;
    float* target = a.partials + (part + row) * V::headDim;
#pragma unroll
    for (int tile = 0; tile < V::warpChannels / 8; ++tile) {
      const int first = channelOf<V>(role.sharer, tile, 0);
      const int second = channelOf<V>(role.sharer, tile, 1);
      float2 sums = {state.sums[tile][2 * half], state.sums[tile][2 * half + 1]};
      if constexpr (isChannelScaled<typename V::Format>) {
        sums.x *= scales[first];
        sums.y *= scales[second];
      }
      if constexpr (V::isBytes) {
        target[first] = sums.x;
        target[second] = sums.y;
      } else {
        *reinterpret_cast<float2*>(target + first) = sums;
      }
    }
    if (threadIdx.x % 4 == 0 && role.sharer == 0) {
      reinterpret_cast<float2*>(a.stats)[part + row] = {state.largest[half], weight};
    }
  }
}

template <typename V> __device__ void attend(const AttendArguments& a) {
  extern __shared__ __align__(128) char shared[];
  allowNext();
  const Shares shares(gridDim.x, a.starts[a.sequences].place);
  const bool hasShare = blockIdx.x < shares.blocks;
  const int begin = hasShare ? shares.begin(blockIdx.x) : 0;
  const int end = hasShare ? shares.begin(blockIdx.x + 1) : 0;
  const int firstSequence = sequenceAt<V::threads>(a, begin);
  TileCursor at = TileCursor::from<V::tileKeys>(a, firstSequence, begin);
  // No piece may begin in the share.
  if (at.place >= end) {
    // Whoever waits for this kernel relies on it to have waited for the one before.
    waitForPrevious();
    return;
  }
  const WarpRole<V> role;
  float* exchange = reinterpret_cast<float*>(shared + V::stages * V::stageBytes);
  TileCopier<V> copier(a, at);
  int fillStage = 0;
  const auto copyNext = [&] {
    if (copier.at.place < end) {
      copier.copy(a, sharedAddress(shared + fillStage * V::stageBytes));
      fillStage = fillStage + 1 == V::stages ? 0 : fillStage + 1;
      copier.at.template advance<V::tileKeys>(a);
      if (copier.at.place < end) copier.lookUp(a);
    }
    // An empty group keeps the count of groups right.
    commitCopies();
  };
  // What is above was planned before this step's first kernel; queries and new rows were not.
  waitForPrevious();
  for (int i = 0; i < V::stages - 1; ++i) copyNext();
  RowState<V> state;
  enterSequence<V>(state, a, at, role);
  startPiece<V>(state);
  for (int i = 0;; i = i + 1 == V::stages ? 0 : i + 1) {
    waitCopies<V::stages - 2>();
    // Now this tile is here for all, and all have finished with the stage to be filled next.
    __syncthreads();
    copyNext();
    if (state.isPresent) {
      addTile<V>(state, a, shared + i * V::stageBytes, at.tile * V::tileKeys, exchange,
                 role.sharer);
    }
    const int sequence = at.sequence;
    const bool isPiecesLast = at.isPiecesLast();
    if (isPiecesLast) writePart<V>(state, a, at, role);
    at.template advance<V::tileKeys>(a);
    if (at.place >= end) return;
    if (at.sequence != sequence) enterSequence<V>(state, a, at, role);
    if (isPiecesLast) startPiece<V>(state);
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
 *   starts       int32 [sequences + 1, 2], from `plan` with tileKeys 64, or 128 for i8c and i8r
 *   units        int32 [sequences / kvHeads, 4]: first query, queries, causal (0 or 1), unused
 *   partials     f32 [parts, headDim], out: unnormalised sums. As many as starts says: at most, for
 *                each query and unit that it reads, group * kvHeads * ceil(192 / kvHeads)
 *   stats        f32 [parts, 2], out: largest logit (base 2), denominator
 *   scaleLog2    log2(e) / sqrt(headDim)
 *
 * Results have the same bits in every variant, for any grid, and whatever the other units are.
 *
 * Launch: grid as many blocks as are resident at once (the occupancy call says how many; more is
 * slower, fewer is right too), 256 threads for r128 and else 128, dynamic shared memory as the
 * README lists. On sm_90 it may be launched with programmatic stream serialization, if table,
 * lengths, starts and units were complete before the kernel ahead of it (append, say) began.
 */
#define ATTEND(name, Format, headDim, rows)                                                       \
  extern "C" __global__ void __launch_bounds__(Variant<Format, headDim, rows>::threads,           \
                                               Variant<Format, headDim, rows>::blocksPerSm)       \
      attend_##name##_d##headDim##_r##rows(                                                       \
          const void* queries, const void* keys, const void* values, const __half* keyLargest,    \
          const __half* valueLargest, const float* keyScales, const float* valueScales,           \
          const int* table, const int* lengths, const Start* starts, const UnitQueries* units,    \
          float* partials, float* stats, int sequences, int kvHeads, int group, int maxBlocks,    \
          int blockShift, float scaleLog2) {                                                      \
    attend<Variant<Format, headDim, rows>>(                                                       \
        {queries,  keys,    values, keyLargest, valueLargest, keyScales, valueScales,             \
         table,    lengths, starts, units,      partials,     stats,     sequences,               \
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
