// Moving stored segments into blocks and back: load reads staging, store writes it. A piece lies in
// staging as it does on disk: `rows` encoded keys, then `rows` encoded values.

#include "formats.cuh"
#include "paged.cuh"

namespace {

constexpr int transferThreads = 256;

struct Piece {
  /** Where it begins in staging, in units of 16 bytes: 32 bits reach 32 GiB. */
  int offset16;
  int rows;
  /** Its first row's place in the sequence. */
  int firstRow;
  /** Row of the table. */
  int sequence;
};

/** Calls move(row in the piece, row in the pool) for the rows of piece blockIdx.y. */
template <typename Move>
__device__ __forceinline__ void forEachRow(const Piece& piece, const int* table, int maxBlocks,
                                           int blockShift, Move move) {
  const int* tableRow = table + static_cast<int64_t>(piece.sequence) * maxBlocks;
  const int warps = gridDim.x * (transferThreads / 32);
  const int first = (blockIdx.x * transferThreads + threadIdx.x) / 32;
#pragma unroll 2
  for (int row = first; row < piece.rows; row += warps) {
    move(row, pooledRow(tableRow, piece.firstRow + row, blockShift));
  }
}

template <typename Staged, int headDim>
__device__ Rows stagedRows(void* staging, const Piece& piece, bool areValues) {
  const int64_t start = static_cast<int64_t>(piece.offset16) * 16;
  const int64_t keys = static_cast<int64_t>(piece.rows) * rowBytesOf<Staged, headDim>;
  return {static_cast<char*>(staging) + start + (areValues ? keys : 0)};
}

template <typename Staged, typename To, int headDim>
__device__ void load(const void* staging, const Piece* pieces, const Rows& keys,
                     const Rows& values, const int* table, int maxBlocks, int blockShift) {
  const int lane = threadIdx.x % 32;
  const Piece piece = pieces[blockIdx.y];
  const Rows from[2] = {stagedRows<Staged, headDim>(const_cast<void*>(staging), piece, false),
                        stagedRows<Staged, headDim>(const_cast<void*>(staging), piece, true)};
  forEachRow(piece, table, maxBlocks, blockShift, [&](int row, int64_t pooled) {
    float key[headDim / 32];
    float value[headDim / 32];
    RowOf<Staged, headDim>::read(from[0], row, lane, key);
    RowOf<Staged, headDim>::read(from[1], row, lane, value);
    RowOf<To, headDim>::write(keys, pooled, lane, key);
    RowOf<To, headDim>::write(values, pooled, lane, value);
  });
}

template <typename From, typename Staged, int headDim>
__device__ void store(void* staging, const Piece* pieces, const Rows& keys, const Rows& values,
                      const int* table, int maxBlocks, int blockShift) {
  const int lane = threadIdx.x % 32;
  const Piece piece = pieces[blockIdx.y];
  const Rows to[2] = {stagedRows<Staged, headDim>(staging, piece, false),
                      stagedRows<Staged, headDim>(staging, piece, true)};
  forEachRow(piece, table, maxBlocks, blockShift, [&](int row, int64_t pooled) {
    float key[headDim / 32];
    float value[headDim / 32];
    RowOf<From, headDim>::read(keys, pooled, lane, key);
    RowOf<From, headDim>::read(values, pooled, lane, value);
    RowOf<Staged, headDim>::write(to[0], row, lane, key);
    RowOf<Staged, headDim>::write(to[1], row, lane, value);
  });
}

}  // namespace

/**
 * load_{f16,f32,i8}_{f16,bf16,i8r}_d{64,128}, load_bf16_bf16_d{64,128}: from a stored precision to
 * the pool's; i8 is the precision `int8`, bf16 a copy of what such a pool holds.
 *
 *   staging   bytes; device memory, or pinned host memory that the device can address
 *   pieces    int32 [pieces, 4]: offset in staging in units of 16 bytes, rows, first row of the
 *             sequence, sequence (row of the table)
 *   keyPool, valuePool, keyLargest, valueLargest, table   as in attend
 *
 * Launch: grid (thread blocks a piece: ceil(rows / 8) is one row a warp, any smaller number works),
 * pieces); 256 threads, no dynamic shared memory.
 */
#define LOAD(name, Staged, To, headDim)                                                           \
  extern "C" __global__ void __launch_bounds__(transferThreads) load_##name##_d##headDim(         \
      const void* staging, const Piece* pieces, void* keyPool, void* valuePool,                   \
      __half* keyLargest, __half* valueLargest, const int* table, int maxBlocks,                  \
      int blockShift) {                                                                           \
    load<Staged, To, headDim>(staging, pieces, {keyPool, keyLargest}, {valuePool, valueLargest},  \
                              table, maxBlocks, blockShift);                                      \
  }

/**
 * store_{f16,bf16,i8r}_{f16,f32,i8}_d{64,128}, store_bf16_bf16_d{64,128}: the other way. staging is
 * written; i8r_i8 and bf16_bf16 give back the bytes that were loaded.
 */
#define STORE(name, From, Staged, headDim)                                                        \
  extern "C" __global__ void __launch_bounds__(transferThreads) store_##name##_d##headDim(        \
      void* staging, const Piece* pieces, void* keyPool, void* valuePool, __half* keyLargest,     \
      __half* valueLargest, const int* table, int maxBlocks, int blockShift) {                    \
    store<From, Staged, headDim>(staging, pieces, {keyPool, keyLargest},                          \
                                 {valuePool, valueLargest}, table, maxBlocks, blockShift);        \
  }

#define TRANSFER_HEAD_DIMS(KERNEL, name, From, To) \
  KERNEL(name, From, To, 64)                       \
  KERNEL(name, From, To, 128)

TRANSFER_HEAD_DIMS(LOAD, f16_f16, F16, F16)
TRANSFER_HEAD_DIMS(LOAD, f32_f16, F32, F16)
TRANSFER_HEAD_DIMS(LOAD, f16_bf16, F16, Bf16)
TRANSFER_HEAD_DIMS(LOAD, f32_bf16, F32, Bf16)
TRANSFER_HEAD_DIMS(LOAD, bf16_bf16, Bf16, Bf16)
TRANSFER_HEAD_DIMS(LOAD, i8_f16, I8Packed, F16)
TRANSFER_HEAD_DIMS(LOAD, i8_bf16, I8Packed, Bf16)
TRANSFER_HEAD_DIMS(LOAD, i8_i8r, I8Packed, I8Row)
TRANSFER_HEAD_DIMS(LOAD, f16_i8r, F16, I8Row)
TRANSFER_HEAD_DIMS(LOAD, f32_i8r, F32, I8Row)
TRANSFER_HEAD_DIMS(STORE, f16_f16, F16, F16)
TRANSFER_HEAD_DIMS(STORE, f16_f32, F16, F32)
TRANSFER_HEAD_DIMS(STORE, bf16_f16, Bf16, F16)
TRANSFER_HEAD_DIMS(STORE, bf16_f32, Bf16, F32)
TRANSFER_HEAD_DIMS(STORE, bf16_bf16, Bf16, Bf16)
TRANSFER_HEAD_DIMS(STORE, f16_i8, F16, I8Packed)
TRANSFER_HEAD_DIMS(STORE, bf16_i8, Bf16, I8Packed)
TRANSFER_HEAD_DIMS(STORE, i8r_i8, I8Row, I8Packed)
TRANSFER_HEAD_DIMS(STORE, i8r_f16, I8Row, F16)
TRANSFER_HEAD_DIMS(STORE, i8r_f32, I8Row, F32)
