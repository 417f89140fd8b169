// KVzip's score: for each key of a chunk the largest attention probability that any query of the
// reconstruction pass gives it, over the query heads of its group (Kim et al., arXiv 2505.23416).
// Probabilities are over the keys of prefix, chunk and pass alone, so two passes over products of
// queries and keys suffice and no logit is ever in memory: the first finds each query's
// denominator, the second each key's largest logit less the log of it. Both hold 128 rows still
// and stream 64 columns at a time past them: queries are the rows first, keys then.

#include "tensor-core.cuh"

namespace {

constexpr int scoreThreads = 128;
constexpr int heldRows = 128;
constexpr int streamedRows = 64;
constexpr int scoreStages = 3;

/** Products of one warp's 32 held rows with a tile of streamed rows. */
using Products = float[2][streamedRows / 8][4];

/** Held rows g, g + 8, g + 16 and g + 24 of a warp, as accumulators have them. */
constexpr int rowsOfLane = 4;

template <typename T, int headDim> struct Streams {
  static constexpr int rowBytes = headDim * sizeof(T);
  static constexpr int pieces = rowBytes / 16;
  static constexpr int stageBytes = streamedRows * rowBytes;
};

/** The held row that a lane has as its `i`-th, from the thread block's first on. */
__device__ __forceinline__ int heldRow(int i) {
  return threadIdx.x / 32 * 32 + threadIdx.x % 32 / 4 + 8 * i;
}

/** Loads the held rows as left factors; heldAt(row) is null where there is none. */
template <typename T, int headDim, typename HeldAt>
__device__ __forceinline__ void holdRows(uint32_t (&held)[2][headDim / 16][4], HeldAt heldAt) {
  const int c = threadIdx.x % 4;
#pragma unroll
  for (int i = 0; i < rowsOfLane; ++i) {
    const T* row = heldAt(heldRow(i));
#pragma unroll
    for (int k = 0; k < headDim / 16; ++k) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const T* source = row + k * 16 + part * 8 + 2 * c;
        held[i / 2][k][i % 2 + 2 * part] =
            row == nullptr ? 0 : __ldg(reinterpret_cast<const uint32_t*>(source));
      }
    }
  }
}

/** Starts the copy of one tile; streamedAt(row) is null where there is none: zeros. */
template <typename T, int headDim, typename StreamedAt>
__device__ __forceinline__ void copyTile(uint32_t stage, int tile, StreamedAt streamedAt) {
  using S = Streams<T, headDim>;
  constexpr int rowsAtOnce = scoreThreads / S::pieces;
  const int piece = threadIdx.x % S::pieces;
#pragma unroll
  for (int pass = 0; pass < streamedRows / rowsAtOnce; ++pass) {
    const int row = pass * rowsAtOnce + threadIdx.x / S::pieces;
    const void* any;
    const T* source = streamedAt(tile * streamedRows + row, any);
    const uint32_t target = stage + swizzled<S::rowBytes>(row, piece);
    if (source == nullptr) {
      copyAsync(target, any, 0);
    } else {
      copyAsync(target, source + piece * 8, 16);
    }
  }
}

template <typename T, int headDim>
__device__ __forceinline__ void productsOf(Products& products,
                                           const uint32_t (&held)[2][headDim / 16][4],
                                           uint32_t stage) {
  using S = Streams<T, headDim>;
  const int lane = threadIdx.x % 32;
  const int row = (lane & 7) + (lane >> 4) * 8;
  const int piece = (lane >> 3) & 1;
#pragma unroll
  for (int n = 0; n < streamedRows / 8; ++n) {
#pragma unroll
    for (int i = 0; i < 8; ++i) products[i / 4][n][i % 4] = 0;
  }
#pragma unroll
  for (int k = 0; k < headDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < streamedRows / 16; ++n) {
      uint32_t r[4];
      loadMatrices(r, stage + swizzled<S::rowBytes>(row + 16 * n, 2 * k + piece));
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        multiply<T>(products[m][2 * n], held[m][k], r[0], r[1]);
        multiply<T>(products[m][2 * n + 1], held[m][k], r[2], r[3]);
      }
    }
  }
}

/**
 * Streams `tiles` tiles past the held rows. prepare(tile) runs before a tile's products are made,
 * consume(tile, products) after.
 */
template <typename T, int headDim, typename HeldAt, typename StreamedAt, typename Prepare,
          typename Consume>
__device__ __forceinline__ void stream(int tiles, HeldAt heldAt, StreamedAt streamedAt,
                                       Prepare prepare, Consume consume) {
  using S = Streams<T, headDim>;
  extern __shared__ __align__(128) char shared[];
  const uint32_t stages = sharedAddress(shared);
  const auto copyStage = [&](int tile) {
    if (tile < tiles) {
      copyTile<T, headDim>(stages + tile % scoreStages * S::stageBytes, tile, streamedAt);
    }
    // An empty group keeps the count of groups right.
    commitCopies();
  };
  for (int tile = 0; tile < scoreStages - 1; ++tile) copyStage(tile);
  uint32_t held[2][headDim / 16][4];
  holdRows<T, headDim>(held, heldAt);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    prepare(tile);
    waitCopies<scoreStages - 2>();
    __syncthreads();
    copyStage(tile + scoreStages - 1);
    Products products;
    productsOf<T, headDim>(products, held, stages + tile % scoreStages * S::stageBytes);
    consume(tile, products);
  }
}

/** Queries of a pass, and where they lie. */
struct PassQueries {
  const void* rows;
  int count;
  int heads;
  /** Elements from one token to the next. */
  int64_t tokenStride;
};

/** The three sets of keys, each [kvHeads, …, headDim] with its own stride between heads. */
struct PassKeys {
  const void* cached;
  const void* own;
  int64_t cachedStride;
  int64_t ownStride;
  int prefix;
  int chunkStart;
  int chunkLength;
};

template <typename T, int headDim>
__device__ void scoreRows(const PassQueries& q, const PassKeys& k, float* logSums, int kvHeads,
                          int firstOwn, float scaleLog2) {
  const int head = blockIdx.y;
  // Late queries see more of their own pass: the longest work begins first.
  const int first = (gridDim.x - 1 - blockIdx.x) * heldRows;
  const T* queries = static_cast<const T*>(q.rows) + head * headDim;
  const int kvHead = head / (q.heads / kvHeads);
  const T* cached = static_cast<const T*>(k.cached) + kvHead * k.cachedStride;
  const T* own = static_cast<const T*>(k.own) + kvHead * k.ownStride;
  const int before = k.prefix + k.chunkLength;
  const int columns = before + firstOwn + min(first + heldRows, q.count);
  const auto heldAt = [&](int row) -> const T* {
    return first + row < q.count ? queries + (first + row) * q.tokenStride : nullptr;
  };
  const auto streamedAt = [&](int column, const void*& any) -> const T* {
    any = k.own;
    if (column < k.prefix) return cached + static_cast<int64_t>(column) * headDim;
    if (column < before) {
      return cached + static_cast<int64_t>(k.chunkStart + column - k.prefix) * headDim;
    }
    return column < columns ? own + static_cast<int64_t>(column - before) * headDim : nullptr;
  };
  float largest[rowsOfLane];
  float sums[rowsOfLane];
#pragma unroll
  for (int i = 0; i < rowsOfLane; ++i) {
    largest[i] = -INFINITY;
    sums[i] = 0;
  }
  const auto consume = [&](int tile, Products& products) {
    const int column = tile * streamedRows + 2 * (threadIdx.x % 4);
    // Columns that query 0 of the block does not see: its own row is the last that it does.
    const bool isMasked = (tile + 1) * streamedRows > before + firstOwn + first + 1;
#pragma unroll
    for (int i = 0; i < rowsOfLane; ++i) {
      const int visible = before + firstOwn + min(first + heldRow(i), q.count - 1) + 1;
      float tileLargest = -INFINITY;
#pragma unroll
      for (int n = 0; n < streamedRows / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& logit = products[i / 2][n][i % 2 * 2 + j];
          if (isMasked && column + 8 * n + j >= visible) logit = -INFINITY;
          tileLargest = fmaxf(tileLargest, logit);
        }
      }
      tileLargest = fmaxf(largest[i], tileLargest * scaleLog2);
      // Lanes keep maxima of their own columns; one that has seen none yet has −∞.
      const float base = tileLargest == -INFINITY ? 0 : tileLargest;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < streamedRows / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          sum += fastExp2(fmaf(products[i / 2][n][i % 2 * 2 + j], scaleLog2, -base));
        }
      }
      sums[i] = sums[i] * fastExp2(largest[i] - base) + sum;
      largest[i] = tileLargest;
    }
  };
  const int tiles = (columns + streamedRows - 1) / streamedRows;
  stream<T, headDim>(tiles, heldAt, streamedAt, [](int) {}, consume);
#pragma unroll
  for (int i = 0; i < rowsOfLane; ++i) {
    const float rowLargest = quadMax(largest[i]);
    const float sum = quadSum(sums[i] * fastExp2(largest[i] - rowLargest));
    const int row = first + heldRow(i);
    if (threadIdx.x % 4 == 0 && row < q.count) {
      logSums[static_cast<int64_t>(head) * q.count + row] = rowLargest + log2f(sum);
    }
  }
}

template <typename T, int headDim>
__device__ void scoreKeys(const PassQueries& q, const PassKeys& k, const float* logSums,
                          float* scores, int64_t scoreStride, int kvHeads, float scaleLog2) {
  const int head = blockIdx.y;
  const int first = blockIdx.x * heldRows;
  const int kvHead = head / (q.heads / kvHeads);
  const T* queries = static_cast<const T*>(q.rows) + head * headDim;
  const T* cached = static_cast<const T*>(k.cached) + kvHead * k.cachedStride;
  const float* headLogSums = logSums + static_cast<int64_t>(head) * q.count;
  const int allTiles = (q.count + streamedRows - 1) / streamedRows;
  const int firstTile = static_cast<int>(static_cast<int64_t>(blockIdx.z) * allTiles / gridDim.z);
  const int endTile =
      static_cast<int>(static_cast<int64_t>(blockIdx.z + 1) * allTiles / gridDim.z);
  if (firstTile == endTile) return;
  const auto heldAt = [&](int row) -> const T* {
    return first + row < k.chunkLength
               ? cached + static_cast<int64_t>(k.chunkStart + first + row) * headDim
               : nullptr;
  };
  const auto streamedAt = [&](int column, const void*& any) -> const T* {
    any = q.rows;
    const int query = firstTile * streamedRows + column;
    return query < q.count ? queries + query * q.tokenStride : nullptr;
  };
  float columnLogSums[streamedRows / 4];
  const auto prepare = [&](int tile) {
    const int column = (firstTile + tile) * streamedRows + 2 * (threadIdx.x % 4);
#pragma unroll
    for (int i = 0; i < streamedRows / 4; ++i) {
      const int query = column + i / 2 * 8 + i % 2;
      // Queries that are not there give no key any weight.
      columnLogSums[i] = query < q.count ? __ldg(headLogSums + query) : INFINITY;
    }
  };
  float largest[rowsOfLane];
#pragma unroll
  for (int i = 0; i < rowsOfLane; ++i) largest[i] = -INFINITY;
  const auto consume = [&](int, Products& products) {
#pragma unroll
    for (int i = 0; i < rowsOfLane; ++i) {
#pragma unroll
      for (int n = 0; n < streamedRows / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const float logit = products[i / 2][n][i % 2 * 2 + j];
          largest[i] = fmaxf(largest[i], fmaf(logit, scaleLog2, -columnLogSums[2 * n + j]));
        }
      }
    }
  };
  stream<T, headDim>(endTile - firstTile, heldAt, streamedAt, prepare, consume);
#pragma unroll
  for (int i = 0; i < rowsOfLane; ++i) {
    const float score = exp2f(quadMax(largest[i]));
    const int row = first + heldRow(i);
    if (threadIdx.x % 4 == 0 && row < k.chunkLength) {
      // The bits of numbers that are not negative are in the numbers' order.
      atomicMax(reinterpret_cast<int*>(scores + kvHead * scoreStride + row), __float_as_int(score));
    }
  }
}

}  // namespace

/**
 * score_rows_{f16,bf16}_d{64,128}, then score_keys_{f16,bf16}_d{64,128}: one layer, one
 * reconstruction pass or a run of its tokens.
 *
 *   queries      token t, query head h at t * queryStride + h * headDim (elements)
 *   cachedKeys   KV head h, position p at h * cachedStride + p * headDim; prefix keys are positions
 *                0 … prefix, the chunk's chunkStart … chunkStart + chunkLength
 *   ownKeys      KV head h, token t of the pass at h * ownStride + t * headDim; where the pass is
 *                appended to the dense cache, a pointer into it
 *   logSums      f32 [queryHeads, queries]: log2 of the softmax's denominators; out of score_rows,
 *                into score_keys
 *   scores       f32, KV head h, key i of the chunk at h * scoreStride + i: in and out of
 *                score_keys, which leaves the larger of old and new. Zeros before the first run
 *   firstOwn     token of the pass that query 0 is; query i sees own keys 0 … firstOwn + i
 *   scaleLog2    log2(e) / sqrt(headDim)
 *
 * All pointers and strides are multiples of 16 bytes. queries > 0 and chunkLength > 0; prefix may
 * be 0.
 * Launch score_rows: grid (ceil(queries / 128), queryHeads). Launch score_keys: grid
 * (ceil(chunkLength / 128), queryHeads, splits), where any number of splits of the queries works
 * and more fill a card when the chunk is short. Both 128 threads, 384 * headDim bytes of dynamic
 * shared memory.
 */
#define SCORE(name, T, headDim)                                                                   \
  extern "C" __global__ void __launch_bounds__(scoreThreads) score_rows_##name##_d##headDim(      \
      const void* queries, const void* cachedKeys, const void* ownKeys, float* logSums,           \
      int64_t queryStride, int64_t cachedStride, int64_t ownStride, int queryCount,               \
      int queryHeads, int kvHeads, int prefix, int chunkStart, int chunkLength, int firstOwn,     \
      float scaleLog2) {                                                                          \
    scoreRows<T, headDim>({queries, queryCount, queryHeads, queryStride},                         \
                          {cachedKeys, ownKeys, cachedStride, ownStride, prefix, chunkStart,      \
                           chunkLength},                                                          \
                          logSums, kvHeads, firstOwn, scaleLog2);                                 \
  }                                                                                               \
  extern "C" __global__ void __launch_bounds__(scoreThreads) score_keys_##name##_d##headDim(      \
      const void* queries, const void* cachedKeys, const float* logSums, float* scores,           \
      int64_t queryStride, int64_t cachedStride, int64_t scoreStride, int queryCount,             \
      int queryHeads, int kvHeads, int chunkStart, int chunkLength, float scaleLog2) {            \
    scoreKeys<T, headDim>({queries, queryCount, queryHeads, queryStride},                         \
                          {cachedKeys, nullptr, cachedStride, 0, 0, chunkStart, chunkLength},     \
                          logSums, scores, scoreStride, kvHeads, scaleLog2);                      \
  }

SCORE(f16, __half, 64)
SCORE(f16, __half, 128)
SCORE(bf16, __nv_bfloat16, 64)
SCORE(bf16, __nv_bfloat16, 128)
