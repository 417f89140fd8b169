// What a warp does with a tile: logits, their online softmax, and the weighted sum of values.
#pragma once

#include "attend-tiles.cuh"

/** What a warp knows of its 16 rows after the keys so far; lane's rows are g and g + 8. */
template <typename V> struct RowState {
  uint32_t queries[V::headDim / 16][4];
  /** Of the warp's channels. */
  float sums[V::warpChannels / 8][4];
  float largest[2];
  /** This lane's share of the denominators: of its own columns. */
  float weights[2];
  /** Rows that are visible to each row, from the sequence's beginning. */
  int visible[2];
  /** Whether the unit has any of the rows. */
  bool isPresent;
};

/** Which rows of a unit a warp has, and which of the warps that share them it is. */
template <typename V> struct WarpRole {
  int rowWarp = threadIdx.x / 32 % V::rowWarps;
  int sharer = threadIdx.x / 32 / V::rowWarps;

  /** The row of a lane's first or second half. */
  __device__ int row(int half) const { return rowWarp * 16 + threadIdx.x % 32 / 4 + 8 * half; }
};

/** Channel of a sum's tile and column pair element; bytes come in another order than halves. */
template <typename V> __device__ __forceinline__ int channelOf(int sharer, int tile, int pair) {
  const int c = threadIdx.x % 4;
  return sharer * V::warpChannels +
         (V::isBytes ? tile / 2 * 16 + 4 * c + 2 * pair + tile % 2 : tile * 8 + 2 * c + pair);
}

/** Takes up a sequence's queries; key scales are folded into them. */
template <typename V>
__device__ void enterSequence(RowState<V>& state, const AttendArguments& a, const TileCursor& at,
                              const WarpRole<V>& role) {
  using T = typename V::Compute;
  const int sequence = at.sequence;
  const UnitQueries unit = a.units[sequence / a.kvHeads];
  const int kvHead = sequence % a.kvHeads;
  const int c = threadIdx.x % 4;
  const float* scales = a.keyScales + static_cast<int64_t>(sequence) * V::headDim;
  state.isPresent = role.rowWarp * 16 < unit.count * a.group;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = role.row(half);
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
    state.visible[half] = unit.causal ? at.length - max(unit.count - 1 - query, 0) : at.length;
  }
}

/** Forgets the keys so far. */
template <typename V> __device__ __forceinline__ void startPiece(RowState<V>& state) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.largest[half] = -INFINITY;
    state.weights[half] = 0;
  }
#pragma unroll
  for (int tile = 0; tile < V::warpChannels / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state.sums[tile][i] = 0;
  }
}

/** Logits or weights of a warp's keys of a step. */
template <typename V> using Columns = float[V::warpKeys / 8][4];

/** logits = Q·Kᵀ for the warp's keys, from row `start` of the tile on. */
template <typename V>
__device__ __forceinline__ void logitsOf(Columns<V>& logits, const RowState<V>& state,
                                         uint32_t keys, int start) {
  using T = typename V::Compute;
  const int lane = threadIdx.x % 32;
  const int row = start + (lane & 7) + (lane >> 4) * 8;
  const int piece = (lane >> 3) & 1;
#pragma unroll
  for (int tile = 0; tile < V::warpKeys / 8; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) logits[tile][i] = 0;
  }
#pragma unroll
  for (int p = 0; p < V::pieces / 2; ++p) {
#pragma unroll
    for (int n = 0; n < V::warpKeys / 16; ++n) {
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

/** Weights of a step's keys as factors, and their sums: of this lane's columns, by 16 keys. */
template <typename V> struct Weights {
  uint32_t factors[V::stepKeys / 16][4];
  float sums[V::stepKeys / 16][2];
};

/** sums += weights·V for a step's keys, from row `start` of the tile on. */
template <typename V>
__device__ __forceinline__ void addValues(RowState<V>& state, const Weights<V>& weights,
                                          uint32_t values, int start, int sharer) {
  using T = typename V::Compute;
  constexpr int warpPieces = V::pieces / V::sharers;
  const int lane = threadIdx.x % 32;
  const int first = sharer * warpPieces;
#pragma unroll
  for (int k = 0; k < V::stepKeys / 16; ++k) {
    const uint32_t(&a)[4] = weights.factors[k];
    const int row = start + 16 * k + (lane & 15);
    if constexpr (warpPieces == 1) {
      static_assert(V::isBytes, "a piece of halves is eight channels, fewer than a warp has");
      uint32_t r[2];
      loadTransposed(r, values + swizzled<V::rowBytes>(row, first));
      multiply<T>(state.sums[0], a, halvesOfBytes<0, 2>(r[0]), halvesOfBytes<0, 2>(r[1]));
      multiply<T>(state.sums[1], a, halvesOfBytes<1, 3>(r[0]), halvesOfBytes<1, 3>(r[1]));
    } else {
#pragma unroll
      for (int p = 0; p < warpPieces / 2; ++p) {
        uint32_t r[4];
        loadTransposed(r, values + swizzled<V::rowBytes>(row, first + 2 * p + (lane >> 4)));
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
}

/** Multiplies the columns by their rows' scales; both lie as pairs of keys. */
template <typename V>
__device__ __forceinline__ void scaleColumns(Columns<V>& x, const __half* largest) {
  const int c = threadIdx.x % 4;
#pragma unroll
  for (int tile = 0; tile < V::warpKeys / 8; ++tile) {
    const float2 scale =
        __half22float2(*reinterpret_cast<const __half2*>(largest + tile * 8 + 2 * c));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[tile][i] *= (i % 2 == 0 ? scale.x : scale.y) * (1 / largestByte);
    }
  }
}

/** The largest logit of each of the lane's rows, of all keys of the step. */
template <typename V>
__device__ __forceinline__ void largestOf(float (&largest)[2], const Columns<V>& logits,
                                          float* exchange, int sharer) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    largest[half] = -INFINITY;
#pragma unroll
    for (int tile = 0; tile < V::warpKeys / 8; ++tile) {
      largest[half] =
          fmaxf(largest[half], fmaxf(logits[tile][2 * half], logits[tile][2 * half + 1]));
    }
    largest[half] = quadMax(largest[half]);
  }
  if constexpr (V::sharers > 1) {
    const int row = threadIdx.x % 32 / 4;
    if (threadIdx.x % 4 == 0) {
      exchange[sharer * 16 + row] = largest[0];
      exchange[sharer * 16 + row + 8] = largest[1];
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int other = 0; other < V::sharers; ++other) {
        largest[half] = fmaxf(largest[half], exchange[other * 16 + row + 8 * half]);
      }
    }
  }
}

/** Gives the others who share the rows this warp's weights, and gets theirs. */
template <typename V>
__device__ __forceinline__ void exchangeWeights(Weights<V>& weights, char* memory, int sharer) {
  static_assert(V::sharers == V::stepKeys / 16, "a warp has sixteen keys of a step");
  static_assert((sizeof(uint4) + sizeof(float2)) * V::sharers * 32 <= V::stepKeys * V::rowBytes,
                "the exchange has room where the step's keys were");
  const int lane = threadIdx.x % 32;
  uint4* factors = reinterpret_cast<uint4*>(memory);
  float2* sums = reinterpret_cast<float2*>(factors + V::sharers * 32);
  const uint32_t(&own)[4] = weights.factors[0];
  factors[sharer * 32 + lane] = make_uint4(own[0], own[1], own[2], own[3]);
  sums[sharer * 32 + lane] = make_float2(weights.sums[0][0], weights.sums[0][1]);
  __syncthreads();
#pragma unroll
  for (int other = 0; other < V::sharers; ++other) {
    const uint4 theirs = factors[other * 32 + lane];
    const uint32_t four[4] = {theirs.x, theirs.y, theirs.z, theirs.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) weights.factors[other][i] = four[i];
    const float2 sum = sums[other * 32 + lane];
    weights.sums[other][0] = sum.x;
    weights.sums[other][1] = sum.y;
  }
}

/** Adds a tile. `first` is its first row in the sequence; the warps exchange in `exchange`. */
template <typename V>
__device__ __forceinline__ void addTile(RowState<V>& state, const AttendArguments& a, char* stage,
                                        int first, float* exchange, int sharer) {
  static_assert(V::stepKeys == 64, "sums are written out for four times sixteen keys");
  const uint32_t keys = sharedAddress(stage);
  const __half* scales = reinterpret_cast<const __half*>(stage + 2 * V::tileBytes);
  const int leastVisible = min(state.visible[0], state.visible[1]);
#pragma unroll 1
  for (int start = 0; start < V::tileKeys; start += V::stepKeys) {
    const int own = start + sharer * V::warpKeys;
    Columns<V> x;
    logitsOf<V>(x, state, keys, own);
    if constexpr (isRowScaled<typename V::Format>) scaleColumns<V>(x, scales + own);
    if (__any_sync(allLanes, first + own + V::warpKeys > leastVisible)) {
#pragma unroll
      for (int tile = 0; tile < V::warpKeys / 8; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int key = first + own + tile * 8 + 2 * (threadIdx.x % 4) + i % 2;
          if (key >= state.visible[i / 2]) x[tile][i] = -INFINITY;
        }
      }
    }
    float largest[2];
    largestOf<V>(largest, x, exchange, sharer);
    float shrink[2];
    Weights<V> weights;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      largest[half] = fmaxf(state.largest[half], largest[half] * a.scaleLog2);
      // A row that has seen no key yet has −∞ here, and −∞ − −∞ is no number.
      const float base = largest[half] == -INFINITY ? 0 : largest[half];
      shrink[half] = fastExp2(state.largest[half] - base);
      state.largest[half] = largest[half];
#pragma unroll
      for (int tile = 0; tile < V::warpKeys / 8; ++tile) {
#pragma unroll
        for (int i = 2 * half; i < 2 * half + 2; ++i) {
          x[tile][i] = fastExp2(fmaf(x[tile][i], a.scaleLog2, -base));
        }
      }
#pragma unroll
      for (int k = 0; k < V::warpKeys / 16; ++k) {
        weights.sums[k][half] = (x[2 * k][2 * half] + x[2 * k][2 * half + 1]) +
                                (x[2 * k + 1][2 * half] + x[2 * k + 1][2 * half + 1]);
      }
    }
    if constexpr (isRowScaled<typename V::Format>) scaleColumns<V>(x, scales + V::tileKeys + own);
#pragma unroll
    for (int k = 0; k < V::warpKeys / 16; ++k) {
      using T = typename V::Compute;
      weights.factors[k][0] = packPair<T>(x[2 * k][0], x[2 * k][1]);
      weights.factors[k][1] = packPair<T>(x[2 * k][2], x[2 * k][3]);
      weights.factors[k][2] = packPair<T>(x[2 * k + 1][0], x[2 * k + 1][1]);
      weights.factors[k][3] = packPair<T>(x[2 * k + 1][2], x[2 * k + 1][3]);
    }
    if constexpr (V::sharers > 1) {
      exchangeWeights<V>(weights, stage + start * V::rowBytes, sharer);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float sum = (weights.sums[0][half] + weights.sums[1][half]) +
                        (weights.sums[2][half] + weights.sums[3][half]);
      state.weights[half] = fmaf(state.weights[half], shrink[half], sum);
    }
    if (__any_sync(allLanes, shrink[0] != 1 || shrink[1] != 1)) {
#pragma unroll
      for (int tile = 0; tile < V::warpChannels / 8; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) state.sums[tile][i] *= shrink[i / 2];
      }
    }
    addValues<V>(state, weights, keys + V::tileBytes, start, sharer);
  }
}
