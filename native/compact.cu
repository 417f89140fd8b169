// Evicting: the pairs that stay are gathered from the dense cache into paged memory, best first.

#include "formats.cuh"
#include "paged.cuh"

namespace {

constexpr int compactThreads = 256;

/** Rows that one thread block of channel_scales looks at. */
constexpr int scaleRows = 512;

template <typename From, typename To, int headDim>
__device__ void compact(const void* denseKeys, const void* denseValues, const int* kept,
                        const int* keptStarts, const Rows& keys, const Rows& values,
                        const int* table, int64_t capacity, int maxBlocks, int blockShift) {
  const int lane = threadIdx.x % 32;
  const int head = blockIdx.y;
  const int start = keptStarts[head];
  const int count = keptStarts[head + 1] - start;
  const int* tableRow = table + static_cast<int64_t>(head) * maxBlocks;
  const Rows toKeys = {keys.elements, keys.largest,
                       keys.scales + static_cast<int64_t>(head) * headDim};
  const Rows toValues = {values.elements, values.largest,
                         values.scales + static_cast<int64_t>(head) * headDim};
  const int warps = gridDim.x * (compactThreads / 32);
  for (int row = (blockIdx.x * compactThreads + threadIdx.x) / 32; row < count; row += warps) {
    const int64_t dense = head * capacity + kept[start + row];
    const int64_t pooled = pooledRow(tableRow, row, blockShift);
    float key[headDim / 32];
    float value[headDim / 32];
    RowOf<From, headDim>::read({const_cast<void*>(denseKeys)}, dense, lane, key);
    RowOf<From, headDim>::read({const_cast<void*>(denseValues)}, dense, lane, value);
    RowOf<To, headDim>::write(toKeys, pooled, lane, key);
    RowOf<To, headDim>::write(toValues, pooled, lane, value);
  }
}

template <typename T, int headDim>
__device__ void channelScales(const T* denseKeys, const T* denseValues, const int* kept,
                              const int* keptStarts, float* keyScales, float* valueScales,
                              int64_t capacity) {
  constexpr int rowsAtOnce = compactThreads / headDim;
  __shared__ float found[rowsAtOnce][headDim];
  const int head = blockIdx.y;
  const T* dense = (blockIdx.z == 0 ? denseKeys : denseValues) + head * capacity * headDim;
  float* scales = (blockIdx.z == 0 ? keyScales : valueScales) + head * headDim;
  const int channel = threadIdx.x % headDim;
  const int begin = keptStarts[head] + blockIdx.x * scaleRows;
  const int end = min(begin + scaleRows, keptStarts[head + 1]);
  float largest = 0;
#pragma unroll 4
  for (int i = begin + threadIdx.x / headDim; i < end; i += rowsAtOnce) {
    const T x = dense[static_cast<int64_t>(kept[i]) * headDim + channel];
    largest = fmaxf(largest, fabsf(toFloat(x)));
  }
  found[threadIdx.x / headDim][channel] = largest;
  __syncthreads();
  if (threadIdx.x >= headDim) return;
  for (int i = 1; i < rowsAtOnce; ++i) largest = fmaxf(largest, found[i][channel]);
  // The bits of numbers that are not negative are in the numbers' order.
  atomicMax(reinterpret_cast<int*>(scales + channel), __float_as_int(largest / largestByte));
}

}  // namespace

/**
 * compact_{f16_f16,bf16_bf16,bf16_f16,f16_i8c,bf16_i8c,f16_i8r,bf16_i8r}_d{64,128}: one layer of
 * one context; from the dense cache's type to the pool's.
 *
 *   denseKeys, denseValues   [kvHeads, capacity, headDim]
 *   kept        int32: for each KV head the positions that stay, in the order they are to have
 *   keptStarts  int32 [kvHeads + 1]: where each KV head's begin in `kept`
 *   keyPool, valuePool, keyLargest, valueLargest   as in attend
 *   keyScales, valueScales   f32 [kvHeads, headDim], in, from channel_scales; i8c only
 *   table       int32 [kvHeads, maxBlocks]: the context's rows of the table
 *
 * Launch: grid (enough for the longest head: ceil(most kept / 8) is one row a warp, and any smaller
 * number works), kvHeads); 256 threads, no dynamic shared memory.
 */
#define COMPACT(name, From, To, headDim)                                                          \
  extern "C" __global__ void __launch_bounds__(compactThreads) compact_##name##_d##headDim(       \
      const void* denseKeys, const void* denseValues, const int* kept, const int* keptStarts,     \
      void* keyPool, void* valuePool, __half* keyLargest, __half* valueLargest,                   \
      const float* keyScales, const float* valueScales, const int* table, int64_t capacity,       \
      int maxBlocks, int blockShift) {                                                            \
    compact<From, To, headDim>(denseKeys, denseValues, kept, keptStarts,                          \
                               {keyPool, keyLargest, keyScales},                                  \
                               {valuePool, valueLargest, valueScales}, table, capacity,           \
                               maxBlocks, blockShift);                                            \
  }

#define COMPACT_HEAD_DIMS(name, From, To) \
  COMPACT(name, From, To, 64)             \
  COMPACT(name, From, To, 128)

COMPACT_HEAD_DIMS(f16_f16, F16, F16)
COMPACT_HEAD_DIMS(bf16_bf16, Bf16, Bf16)
COMPACT_HEAD_DIMS(bf16_f16, Bf16, F16)
COMPACT_HEAD_DIMS(f16_i8c, F16, I8Channel)
COMPACT_HEAD_DIMS(bf16_i8c, Bf16, I8Channel)
COMPACT_HEAD_DIMS(f16_i8r, F16, I8Row)
COMPACT_HEAD_DIMS(bf16_i8r, Bf16, I8Row)

/**
 * channel_scales_{f16,bf16}_d{64,128}: for each KV head and channel the largest magnitude of the
 * kept rows, over 127. keyScales and valueScales must be zeros before; the rest is as in compact.
 *
 * Launch: grid (ceil(most kept of a head / 512), kvHeads, 2), 256 threads, no dynamic shared
 * memory.
 */
#define CHANNEL_SCALES(name, T, headDim)                                                          \
  extern "C" __global__ void __launch_bounds__(compactThreads)                                    \
      channel_scales_##name##_d##headDim(const T* denseKeys, const T* denseValues,                \
                                         const int* kept, const int* keptStarts,                  \
                                         float* keyScales, float* valueScales,                    \
                                         int64_t capacity) {                                      \
    channelScales<T, headDim>(denseKeys, denseValues, kept, keptStarts, keyScales, valueScales,   \
                              capacity);                                                          \
  }

CHANNEL_SCALES(f16, __half, 64)
CHANNEL_SCALES(f16, __half, 128)
CHANNEL_SCALES(bf16, __nv_bfloat16, 64)
CHANNEL_SCALES(bf16, __nv_bfloat16, 128)
