// What a warp does with a tile: logits, their online softmax, and the weighted sum of values.
#pragma once

#include "attend-tiles.cuh"

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

/** Turns logits into weights exp2(logit − largest); brings the state up to the new largest. */
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
