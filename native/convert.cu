// A checkpoint's numbers in the type that the model computes in.

#include "tensor-core.cuh"

namespace {

constexpr int convertThreads = 256;

template <typename From, typename To>
__device__ void convert(const From* from, To* to, int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * convertThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * convertThreads + threadIdx.x; i < count;
       i += step) {
    to[i] = fromFloat<To>(toFloat(from[i]));
  }
}

}  // namespace

/**
 * convert_{f32_f16,bf16_f16,f32_bf16,f16_bf16}: numbers rounded to the nearest of another type.
 *
 *   from, to   [count]
 *
 * Launch: any grid, 256 threads, no dynamic shared memory.
 */
#define CONVERT(name, From, To)                                      \
  extern "C" __global__ void __launch_bounds__(convertThreads)       \
      convert_##name(const From* from, To* to, int64_t count) {      \
    convert(from, to, count);                                        \
  }

CONVERT(f32_f16, float, __half)
CONVERT(bf16_f16, __nv_bfloat16, __half)
CONVERT(f32_bf16, float, __nv_bfloat16)
CONVERT(f16_bf16, __half, __nv_bfloat16)
