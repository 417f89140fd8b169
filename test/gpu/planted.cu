// Faults for sanitize.sh to find, so that a checker which looks at nothing does not pass for clean.
// The name is one that its filter lets through.

extern "C" __global__ void attend_planted_memcheck(int* out, int count) {
  if (threadIdx.x == 0) out[count] = 1;
}

extern "C" __global__ void attend_planted_racecheck(int* out, int count) {
  __shared__ int shared[64];
  shared[threadIdx.x] = threadIdx.x;
  if (threadIdx.x < count) out[threadIdx.x] = shared[63 - threadIdx.x];
}

extern "C" __global__ void attend_planted_synccheck(int* out, int count) {
  if (threadIdx.x % 32 < 16) __syncthreads();
  if (threadIdx.x < count) out[threadIdx.x] = 1;
}
