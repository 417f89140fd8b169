// Writing new tokens' pairs behind the rows that a unit has.

#include "formats.cuh"
#include "paged.cuh"

namespace {

constexpr int appendThreads = 128;

/** What a pool of keys or values consists of; unused parts are null. */
struct Pool {
  void* elements;
  __half* largest;
  const float* scales;

  template <int headDim> __device__ Rows of(int sequence) const {
    return {elements, largest, scales + static_cast<int64_t>(sequence) * headDim};
  }
};

template <typename From, typename To, int headDim>
__device__ void append(const void* newKeys, const void* newValues, const int2* tokens,
                       const Pool& keys, const Pool& values, const int* table, const int* lengths,
                       int tokenCount, int kvHeads, int maxBlocks, int blockShift) {
  allowNext();
  waitForPrevious();
  const int lane = threadIdx.x % 32;
  const int item = (blockIdx.x * appendThreads + threadIdx.x) / 32;
  if (item >= tokenCount * kvHeads) return;
  const int2 token = tokens[item / kvHeads];
  if (token.x < 0) return;
  const int sequence = token.x * kvHeads + item % kvHeads;
  const int row = lengths[sequence] - token.y;
  const int64_t pooled =
      pooledRow(table + static_cast<int64_t>(sequence) * maxBlocks, row, blockShift);
  float x[headDim / 32];
  RowOf<From, headDim>::read({const_cast<void*>(newKeys)}, item, lane, x);
  RowOf<To, headDim>::write(keys.of<headDim>(sequence), pooled, lane, x);
  RowOf<From, headDim>::read({const_cast<void*>(newValues)}, item, lane, x);
  RowOf<To, headDim>::write(values.of<headDim>(sequence), pooled, lane, x);
}

}  // namespace

/**
 * append_{f16_f16,bf16_bf16,f16_i8c,f16_i8r}_d{64,128}: one layer; from the model's type to the
 * pool's. Rows are rounded as they are stored.
 *
 *   newKeys, newValues   [tokens, kvHeads, headDim]
 *   tokens    int32 [tokens, 2]: the token's unit, or -1 to pass it over (padding), and its row
 *             counted back from the unit's end: 1 for the last row
 *   keyPool, valuePool, keyLargest, valueLargest, keyScales, valueScales, table, lengths
 *             as in attend; lengths already count the new tokens
 *
 * Launch: grid ceil(tokens * kvHeads / 4), 128 threads, no dynamic shared memory.
 */
#define APPEND(name, From, To, headDim)                                                           \
  extern "C" __global__ void __launch_bounds__(appendThreads) append_##name##_d##headDim(         \
      const void* newKeys, const void* newValues, const int2* tokens, void* keyPool,              \
      void* valuePool, __half* keyLargest, __half* valueLargest, const float* keyScales,          \
      const float* valueScales, const int* table, const int* lengths, int tokenCount,             \
      int kvHeads, int maxBlocks, int blockShift) {                                               \
    append<From, To, headDim>(newKeys, newValues, tokens, {keyPool, keyLargest, keyScales},       \
                              {valuePool, valueLargest, valueScales}, table, lengths, tokenCount, \
                              kvHeads, maxBlocks, blockShift);                                    \
  }

#define APPEND_HEAD_DIMS(name, From, To) \
  APPEND(name, From, To, 64)             \
  APPEND(name, From, To, 128)

APPEND_HEAD_DIMS(f16_f16, F16, F16)
APPEND_HEAD_DIMS(bf16_bf16, Bf16, Bf16)
APPEND_HEAD_DIMS(f16_i8c, F16, I8Channel)
APPEND_HEAD_DIMS(f16_i8r, F16, I8Row)
