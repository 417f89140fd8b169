// Warp-wide matrix products and the copies that feed them. Everything here exists since sm_80, so
// one source serves all cards.
//
// Fragments of mma.m16n8k16, for lane = 4·g + c: A holds rows g and g+8 at k = 2c, 2c+1 and
// 2c+8, 2c+9; B holds column g at the same k; the accumulator holds rows g and g+8 at columns
// 2c, 2c+1.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

constexpr unsigned allLanes = 0xffffffffu;

/** Two numbers rounded to T, the first in the low half. */
template <typename T> __device__ __forceinline__ uint32_t packPair(float low, float high);

template <> __device__ __forceinline__ uint32_t packPair<__half>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

template <> __device__ __forceinline__ uint32_t packPair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(__half x) { return __half2float(x); }
__device__ __forceinline__ float toFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T> __device__ __forceinline__ T fromFloat(float x);
template <> __device__ __forceinline__ float fromFloat<float>(float x) { return x; }
template <> __device__ __forceinline__ __half fromFloat<__half>(float x) {
  return __float2half_rn(x);
}
template <> __device__ __forceinline__ __nv_bfloat16 fromFloat<__nv_bfloat16>(float x) {
  return __float2bfloat16_rn(x);
}

/** sum += A·B, accumulated in float32. */
template <typename T>
__device__ __forceinline__ void multiply(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1);

template <>
__device__ __forceinline__ void multiply<__half>(float (&sum)[4], const uint32_t (&a)[4],
                                                 uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

template <>
__device__ __forceinline__ void multiply<__nv_bfloat16>(float (&sum)[4], const uint32_t (&a)[4],
                                                        uint32_t b0, uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
               "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t sharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

/** Four 8×8 matrices of 16-bit units; lane i gives the address of row i % 8 of matrix i / 8. */
__device__ __forceinline__ void loadMatrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/** The same, each matrix transposed. */
__device__ __forceinline__ void loadTransposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/** Two transposed matrices: lanes 0 to 15 give the addresses. */
__device__ __forceinline__ void loadTransposed(uint32_t (&r)[2], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
}

/** Starts a copy of 16 bytes into shared memory: the first `bytes` from global, the rest zeros. */
__device__ __forceinline__ void copyAsync(uint32_t target, const void* source, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void commitCopies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}

/** Waits until at most `pending` of the newest groups of this thread's copies are unfinished. */
template <int pending> __device__ __forceinline__ void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

/**
 * Where 16-byte piece `piece` of row `row` lies in a tile of shared memory. Pieces of a row change
 * places, so that eight rows at the same piece (what loadMatrices reads at once) use all banks.
 */
template <int rowBytes> __device__ __forceinline__ int swizzled(int row, int piece) {
  static_assert(rowBytes == 64 || rowBytes % 128 == 0, "rows of 64 or a multiple of 128 bytes");
  const int turn = rowBytes == 64 ? (row >> 1) & 3 : row & 7;
  return row * rowBytes + ((piece ^ turn) << 4);
}

/**
 * Bytes `low` and `high` of four signed ones, as a pair of halves. A byte u + 128 under the
 * exponent 0x64 is the half 1024 + u + 128: exact, and two instructions for a pair.
 */
template <int low, int high> __device__ __forceinline__ uint32_t halvesOfBytes(uint32_t four) {
  const uint32_t biased = __byte_perm(four ^ 0x80808080u, 0x64646464u, 0x4040 | high << 8 | low);
  const uint32_t bias = 0x64806480u;
  const __half2 pair = __hsub2(*reinterpret_cast<const __half2*>(&biased),
                               *reinterpret_cast<const __half2*>(&bias));
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/** 2^x in one instruction, accurate to 2^-22; results too small for a normal number are 0. */
__device__ __forceinline__ float fastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/**
 * For kernels launched with programmatic stream serialization (sm_90 on), which may begin before
 * the kernel ahead of them has ended; without it both do nothing. waitForPrevious returns when that
 * kernel and its writes are complete; allowNext lets the next one begin.
 */
__device__ __forceinline__ void waitForPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void allowNext() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/** Over the four lanes that share the accumulator's rows. */
__device__ __forceinline__ float quadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(allLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(allLanes, x, 2));
}

__device__ __forceinline__ float quadSum(float x) {
  x += __shfl_xor_sync(allLanes, x, 1);
  return x + __shfl_xor_sync(allLanes, x, 2);
}
