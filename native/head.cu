// The LM head for few rows: logits in float32, so that the largest is not decided by the rounding
// of a half, and their greatest. Reading the matrix is all the time this takes, whatever the rows.

#include "tensor-core.cuh"

namespace {

constexpr int headThreads = 256;
/** Rows of hidden states that share a read of the matrix. */
constexpr int headRows = 16;
/** Tiles of eight outputs that a warp makes at once: each hidden value is loaded once for all. */
constexpr int headTiles = 4;
/** Inputs of one step: four lanes with 16 bytes each. */
constexpr int headInputs = 32;
constexpr int largestThreads = 1024;

/** Eight numbers as four pairs. */
struct __align__(16) Eight {
  uint32_t pairs[4];
};

template <typename T>
__device__ __forceinline__ Eight eightAt(const T* row, int first, bool exists) {
  if (!exists) return {{0, 0, 0, 0}};
  return *reinterpret_cast<const Eight*>(row + first);
}

/**
 * Inputs go to a lane as they lie, eight in a row, and not as mma.sync numbers them: a sum does not
 * mind the order, as long as both factors have the same.
 */
template <typename T>
__device__ void logits(const T* hidden, const T* matrix, float* out, int rows, int inputs,
                       int outputs) {
  const int lane = threadIdx.x % 32;
  const int inGroup = lane / 4;
  const int firstInput = lane % 4 * 8;
  const int warp = (blockIdx.x * headThreads + threadIdx.x) / 32;
  const int firstOutput = warp * headTiles * 8;
  const int firstRow = blockIdx.y * headRows;
  if (firstOutput >= outputs) return;
  const int low = firstRow + inGroup;
  const int high = low + 8;
  const T* lowRow = hidden + static_cast<int64_t>(low) * inputs;
  const T* highRow = hidden + static_cast<int64_t>(high) * inputs;
  const T* matrixRow[headTiles];
  bool exists[headTiles];
#pragma unroll
  for (int tile = 0; tile < headTiles; ++tile) {
    const int output = firstOutput + tile * 8 + inGroup;
    exists[tile] = output < outputs;
    matrixRow[tile] = matrix + static_cast<int64_t>(output) * inputs;
  }
  float sums[headTiles][4] = {};
#pragma unroll 2
  for (int input = firstInput; input < inputs; input += headInputs) {
    Eight factors[headTiles];
#pragma unroll
    for (int tile = 0; tile < headTiles; ++tile) {
      factors[tile] = eightAt(matrixRow[tile], input, exists[tile]);
    }
    const Eight a = eightAt(lowRow, input, low < rows);
    const Eight b = eightAt(highRow, input, high < rows);
    const uint32_t first[4] = {a.pairs[0], b.pairs[0], a.pairs[1], b.pairs[1]};
    const uint32_t second[4] = {a.pairs[2], b.pairs[2], a.pairs[3], b.pairs[3]};
#pragma unroll
    for (int tile = 0; tile < headTiles; ++tile) {
      multiply<T>(sums[tile], first, factors[tile].pairs[0], factors[tile].pairs[1]);
      multiply<T>(sums[tile], second, factors[tile].pairs[2], factors[tile].pairs[3]);
    }
  }
#pragma unroll
  for (int tile = 0; tile < headTiles; ++tile) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int row = i < 2 ? low : high;
      const int output = firstOutput + tile * 8 + lane % 4 * 2 + i % 2;
      if (row < rows && output < outputs) {
        out[static_cast<int64_t>(row) * outputs + output] = sums[tile][i];
      }
    }
  }
}

/** A logit and where it is: the larger logit, and of equal ones the first. */
struct Found {
  float logit;
  int at;

  __device__ __forceinline__ void add(float otherLogit, int other) {
    if (otherLogit > logit || (otherLogit == logit && other < at)) {
      logit = otherLogit;
      at = other;
    }
  }
};

__device__ __forceinline__ void addLanes(Found& found) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) {
    const float logit = __shfl_xor_sync(allLanes, found.logit, step);
    found.add(logit, __shfl_xor_sync(allLanes, found.at, step));
  }
}

}  // namespace

/**
 * logits_{f16,bf16}: out = hidden · matrixᵀ.
 *
 *   hidden   [rows, inputs]; inputs a multiple of 32
 *   matrix   [outputs, inputs], of the same type
 *   out      f32 [rows, outputs]
 *
 * A row's logits have the same bits whatever the other rows are.
 * Launch: grid (ceil(outputs / 256), ceil(rows / 16)), 256 threads, no dynamic shared memory.
 */
extern "C" __global__ void __launch_bounds__(headThreads)
    logits_f16(const __half* hidden, const __half* matrix, float* out, int rows, int inputs,
               int outputs) {
  logits(hidden, matrix, out, rows, inputs, outputs);
}

extern "C" __global__ void __launch_bounds__(headThreads)
    logits_bf16(const __nv_bfloat16* hidden, const __nv_bfloat16* matrix, float* out, int rows,
                int inputs, int outputs) {
  logits(hidden, matrix, out, rows, inputs, outputs);
}

/**
 * largest: where each row's largest logit is, the first of equal ones; -1 if there is no number.
 *
 *   logits   f32 [rows, outputs]
 *   out      int32 [rows]
 *
 * Launch: grid rows, 1024 threads, no dynamic shared memory.
 */
extern "C" __global__ void __launch_bounds__(largestThreads)
    largest(const float* logits, int* out, int outputs) {
  __shared__ Found warps[largestThreads / 32];
  const float* row = logits + static_cast<int64_t>(blockIdx.x) * outputs;
  Found found = {-INFINITY, INT32_MAX};
  bool isNumber = true;
  for (int i = threadIdx.x; i < outputs; i += largestThreads) {
    const float logit = row[i];
    isNumber = isNumber && !isnan(logit);
    found.add(logit, i);
  }
  addLanes(found);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = found;
  isNumber = __syncthreads_and(isNumber);
  if (threadIdx.x >= 32) return;
  found = warps[threadIdx.x];
  addLanes(found);
  if (threadIdx.x == 0) out[blockIdx.x] = isNumber && !isinf(found.logit) ? found.at : -1;
}
