// Attention of few queries over paged, ragged KV heads: decoding, extending, and many queries on one
// context. Each sequence is split where the even dealing of work happens to cut it (paged.cuh);
// every part leaves an unnormalised sum with its maximum and denominator, and merge.cu puts them
// together. After Dao, FlashAttention-2 (arXiv 2307.08691), and Dao et al., Flash-Decoding (2023);
// reading a shared context once as in Juravsky et al., Hydragen (arXiv 2402.05099); dealing tiles
// without regard to sequences as in Osama et al., Stream-K (arXiv 2301.03598).

#include "attend-tiles.cuh"

namespace {

/** What a warp knows of its 16 rows after the keys so far; lane's rows are g and g + 8. */
template <typename V> struct RowState {
  uint32_t queries[V::headDim / 16][4];
  float sums[V::headDim / 8][4];
  float largest[2];
  /** This lane's share of the denominators: of its own columns. */
  float weights[2];
  /** Rows that are visible to each row, from the sequence's beginning. */
  int visible[2];
};

/** Channel of a sum's tile and column pair element; bytes come in another order than halves. */
template <typename V> __device__ __forceinline__ int channelOf(int tile, int pair) {
  const int c = threadIdx.x % 4;
  return V::isBytes ? tile / 2 * 16 + 4 * c + 2 * pair + tile % 2 : tile * 8 + 2 * c + pair;
}

/** Takes up a sequence's queries; key scales are folded into them. */
template <typename V>
__device__ void enterSequence(RowState<V>& state, const AttendArguments& a, int sequence,
                              int length, int rowWarp) {
  using T = typename V::Compute;
  const UnitQueries unit = a.units[sequence / a.kvHeads];
  const int kvHead = sequence % a.kvHeads;
  const int c = threadIdx.x % 4;
  const float* scales = a.keyScales + static_cast<int64_t>(sequence) * V::headDim;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = rowWarp * 16 + threadIdx.x % 32 / 4 + 8 * half;
    const int query = row / a.group;
    const bool present = query < unit.count;
    const int head = kvHead * a.group + row % a.group;
    const int64_t offset =
        (static_cast<int64_t>(unit.first + query) * a.kvHeads * a.group + head) * V::headDim;
    const T* source = static_cast<const T*>(a.queries) + offset;
#pragma unroll
    for (int k = 0; k < V::headDim / 16; ++k) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int channel = k * 16 + (V::isBytes ? 4 * c + 2 * part : 2 * c + 8 * part);
        uint32_t pair = present ? *reinterpret_cast<const uint32_t*>(source + channel) : 0;
        if constexpr (isChannelScaled<typename V::Format>) {
          const float2 q = __half22float2(*reinterpret_cast<const __half2*>(&pair));
          pair = packPair<T>(q.x * scales[channel], q.y * scales[channel + 1]);
        }
        state.queries[k][half + 2 * part] = pair;
      }
    }
    state.visible[half] = unit.causal ? length - max(unit.count - 1 - query, 0) : length;
    state.largest[half] = -INFINITY;
    state.weights[half] = 0;
  }
#pragma unroll
  for (int tile = 0; tile < V::headDim / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state.sums[tile][i] = 0;
  }
}

/** logits = Q·Kᵀ for `stepKeys` keys from row `start` of the tile on. */
template <typename V>
__device__ __forceinline__ void logitsOf(float (&logits)[V::stepKeys / 8][4],
                                         const RowState<V>& state, uint32_t keys, int start) {
  using T = typename V::Compute;
  const int lane = threadIdx.x % 32;
  const int row = start + (lane & 7) + (lane >> 4) * 8;
  const int piece = (lane >> 3) & 1;
#pragma unroll
  for (int tile = 0; tile < V::stepKeys / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) logits[tile][i] = 0;
  }
#pragma unroll
  for (int p = 0; p < V::pieces / 2; ++p) {
#pragma unroll
    for (int n = 0; n < V::stepKeys / 16; ++n) {
      uint32_t r[4];
      loadMatrices(r, keys + swizzled<V::rowBytes>(row + 16 * n, 2 * p + piece));
      if constexpr (V::isBytes) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          multiply<T>(logits[2 * n + i / 2], state.queries[2 * p + i % 2],
                      halvesOfBytes<0, 1>(r[i]), halvesOfBytes<2, 3>(r[i]));
        }
      } else {
        multiply<T>(logits[2 * n], state.queries[p], r[0], r[1]);
        multiply<T>(logits[2 * n + 1], state.queries[p], r[2], r[3]);
      }
    }
  }
}

/** sums += weights·V for the same keys. */
template <typename V>
__device__ __forceinline__ void addValues(RowState<V>& state,
                                          const float (&weights)[V::stepKeys / 8][4],
                                          uint32_t values, int start) {
  using T = typename V::Compute;
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int k = 0; k < V::stepKeys / 16; ++k) {
    const float(&low)[4] = weights[2 * k];
    const float(&high)[4] = weights[2 * k + 1];
    const uint32_t a[4] = {packPair<T>(low[0], low[1]), packPair<T>(low[2], low[3]),
                           packPair<T>(high[0], high[1]), packPair<T>(high[2], high[3])};
    const int row = start + 16 * k + (lane & 15);
#pragma unroll
    for (int p = 0; p < V::pieces / 2; ++p) {
      uint32_t r[4];
      loadTransposed(r, values + swizzled<V::rowBytes>(row, 2 * p + (lane >> 4)));
      if constexpr (V::isBytes) {
        // A 16-bit unit is two channels: even ones make one tile, odd ones the next.
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          multiply<T>(state.sums[4 * p + 2 * j], a, halvesOfBytes<0, 2>(r[2 * j]),
                      halvesOfBytes<0, 2>(r[2 * j + 1]));
          multiply<T>(state.sums[4 * p + 2 * j + 1], a, halvesOfBytes<1, 3>(r[2 * j]),
                      halvesOfBytes<1, 3>(r[2 * j + 1]));
        }
      } else {
        multiply<T>(state.sums[2 * p], a, r[0], r[1]);
        multiply<T>(state.sums[2 * p + 1], a, r[2], r[3]);
      }
    }
  }
}

/** Multiplies the columns by their rows' scales; both lie as pairs of keys. */
template <typename V>
__device__ __forceinline__ void scaleColumns(float (&x)[V::stepKeys / 8][4],
                                             const __half* largest) {
  const int c = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < V::stepKeys / 8; ++tile) {
    const float2 scale =
        __half22float2(*reinterpret_cast<const __half2*>(largest + tile * 8 + 2 * c));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[tile][i] *= (i % 2 == 0 ? scale.x : scale.y) * (1 / largestByte);
    }
  }
}

/** Turns logits into weights exp2(logit − largest), and brings the state up to the new largest. */
template <typename V>
__device__ __forceinline__ void weigh(RowState<V>& state, float (&logits)[V::stepKeys / 8][4],
                                      float scaleLog2) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float largest = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < V::stepKeys / 8; ++tile) {
      largest = fmaxf(largest, fmaxf(logits[tile][2 * half], logits[tile][2 * half + 1]));
    }
    largest = fmaxf(state.largest[half], quadMax(largest) * scaleLog2);
    // A row that has seen no key yet has −∞ here, and −∞ − −∞ is no number.
    const float base = largest == -INFINITY ? 0 : largest;
    const float shrink = fastExp2(state.largest[half] - base);
    state.largest[half] = largest;
    float sum = 0;
#pragma unroll
    for (int tile = 0; tile < V::stepKeys / 8; ++tile) {
#pragma unroll
      for (int i = 2 * half; i < 2 * half + 2; ++i) {
        logits[tile][i] = fastExp2(fmaf(logits[tile][i], scaleLog2, -base));
        sum += logits[tile][i];
      }
    }
    state.weights[half] = state.weights[half] * shrink + sum;
    if (__any_sync(allLanes, shrink != 1)) {
#pragma unroll
      for (int tile = 0; tile < V::headDim / 8; ++tile) {
        state.sums[tile][2 * half] *= shrink;
        state.sums[tile][2 * half + 1] *= shrink;
      }
    }
  }
}

/** Adds one tile, or this warp's keys of it. `first` is the tile's first row in its sequence. */
template <typename V>
__device__ __forceinline__ void addTile(RowState<V>& state, const AttendArguments& a,
                                        const char* stage, int first, int keyWarp) {
  const uint32_t keys = sharedAddress(stage);
  const __half* largest = reinterpret_cast<const __half*>(stage + 2 * V::tileBytes);
  const int c = threadIdx.x % 4;
  const int leastVisible = min(state.visible[0], state.visible[1]);
#pragma unroll 1
  for (int start = keyWarp * V::warpKeys; start < (keyWarp + 1) * V::warpKeys;
       start += V::stepKeys) {
    float logits[V::stepKeys / 8][4];
    logitsOf<V>(logits, state, keys, start);
    if constexpr (isRowScaled<typename V::Format>) scaleColumns<V>(logits, largest + start);
    if (__any_sync(allLanes, first + start + V::stepKeys > leastVisible)) {
#pragma unroll
      for (int tile = 0; tile < V::stepKeys / 8; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = first + start + tile * 8 + 2 * c + i % 2;
          if (key >= state.visible[i / 2]) logits[tile][i] = -INFINITY;
        }
      }
    }
    weigh<V>(state, logits, a.scaleLog2);
    if constexpr (isRowScaled<typename V::Format>) {
      scaleColumns<V>(logits, largest + V::tileKeys + start);
    }
    addValues<V>(state, logits, keys + V::tileBytes, start);
  }
}

/**
 * Sums up the warps that share rows, into those of keyWarp 0. `scratch` is a stage that everyone has
 * finished with; sums go through it in the order of lanes, so that no bank is asked twice.
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
  if (blockIdx.x >= shares.blocks) return;
  const int begin = shares.begin(blockIdx.x);
  const int end = shares.begin(blockIdx.x + 1);
  TileCursor at(a, sequenceAt<V::threads>(a, begin), begin);
  // The share may be nothing but the room for entering.
  if (at.place >= end) return;
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
