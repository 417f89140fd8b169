// Formats of stored rows (one pair's key, or its value), and how a warp reads and writes one.
//
// In pools: F16, Bf16; I8Channel: signed bytes, with a float32 scale for each channel of a
// sequence; I8Row: signed bytes, with the row's largest magnitude in a pool beside it. In staging
// buffers F32, F16, Bf16 and I8Packed: the largest magnitude in front of the row's bytes, as on
// disk. I8Row and I8Packed are the precision `int8`: an element is its integer times largest / 127.
#pragma once

#include "tensor-core.cuh"

struct F32 {};
struct F16 {
  using Element = __half;
  using Compute = __half;
};
struct Bf16 {
  using Element = __nv_bfloat16;
  using Compute = __nv_bfloat16;
};
struct I8Channel {
  using Element = int8_t;
  using Compute = __half;
};
struct I8Row {
  using Element = int8_t;
  using Compute = __half;
};
struct I8Packed {};

template <typename Format> constexpr bool isRowScaled = false;
template <> constexpr bool isRowScaled<I8Row> = true;
template <typename Format> constexpr bool isChannelScaled = false;
template <> constexpr bool isChannelScaled<I8Channel> = true;

/** Rows of one kind, keys or values. */
struct Rows {
  void* elements;
  /** I8Row: [rows], largest magnitudes. */
  __half* largest;
  /** I8Channel: [headDim] of the sequence at hand. */
  const float* scales;
};

constexpr float largestByte = 127.0f;

/** JavaScript's Math.round, halves up, so that bytes are those of the CPU engine. */
__device__ __forceinline__ int roundHalvesUp(double x) {
  const double down = floor(x);
  return static_cast<int>(x - down >= 0.5 ? down + 1 : down);
}

__device__ __forceinline__ float warpMax(float x) {
  for (int other = 16; other > 0; other /= 2) {
    x = fmaxf(x, __shfl_xor_sync(allLanes, x, other));
  }
  return x;
}

/**
 * How the 32 lanes of a warp hold a row: lane i has the `perLane` elements from i * perLane on.
 * read and write must be called by all lanes.
 */
template <typename Format, int headDim> struct RowOf;

/** Elements that are numbers by themselves. */
template <typename T, int headDim> struct PlainRow {
  static constexpr int perLane = headDim / 32;
  struct alignas(sizeof(T) * perLane) Part {
    T element[perLane];
  };

  static __device__ void read(const Rows& from, int64_t row, int lane, float (&to)[perLane]) {
    const Part part = static_cast<const Part*>(from.elements)[row * 32 + lane];
#pragma unroll
    for (int i = 0; i < perLane; ++i) to[i] = toFloat(part.element[i]);
  }

  static __device__ void write(const Rows& to, int64_t row, int lane,
                               const float (&from)[perLane]) {
    Part part;
#pragma unroll
    for (int i = 0; i < perLane; ++i) part.element[i] = fromFloat<T>(from[i]);
    static_cast<Part*>(to.elements)[row * 32 + lane] = part;
  }
};

template <int headDim> struct RowOf<F32, headDim> : PlainRow<float, headDim> {};
template <int headDim> struct RowOf<F16, headDim> : PlainRow<__half, headDim> {};
template <int headDim> struct RowOf<Bf16, headDim> : PlainRow<__nv_bfloat16, headDim> {};

template <int headDim> struct RowOf<I8Channel, headDim> {
  static constexpr int perLane = headDim / 32;
  struct alignas(perLane) Part {
    int8_t element[perLane];
  };

  static __device__ void read(const Rows& from, int64_t row, int lane, float (&to)[perLane]) {
    const Part part = static_cast<const Part*>(from.elements)[row * 32 + lane];
#pragma unroll
    for (int i = 0; i < perLane; ++i) to[i] = part.element[i] * from.scales[lane * perLane + i];
  }

  static __device__ void write(const Rows& to, int64_t row, int lane,
                               const float (&from)[perLane]) {
    Part part;
#pragma unroll
    for (int i = 0; i < perLane; ++i) {
      const float scale = to.scales[lane * perLane + i];
      const float steps = scale > 0 ? rintf(from[i] / scale) : 0.0f;
      part.element[i] = static_cast<int8_t>(fminf(fmaxf(steps, -largestByte), largestByte));
    }
    static_cast<Part*>(to.elements)[row * 32 + lane] = part;
  }
};

/** Bytes under a scale for each row; where the scale and the bytes lie is the derived format's. */
template <int headDim> struct ScaledRow {
  static constexpr int perLane = headDim / 32;

  static __device__ void decode(__half largest, const int8_t* bytes, int lane,
                                float (&to)[perLane]) {
    const double step = static_cast<double>(toFloat(largest)) / largestByte;
#pragma unroll
    for (int i = 0; i < perLane; ++i) to[i] = static_cast<float>(bytes[lane * perLane + i] * step);
  }

  /** The row's largest magnitude: infinite if any element is not finite, whatever the bytes. */
  static __device__ __half encode(int8_t* bytes, int lane, const float (&from)[perLane]) {
    float largest = 0;
    float halves[perLane];
#pragma unroll
    for (int i = 0; i < perLane; ++i) {
      halves[i] = toFloat(__float2half_rn(from[i]));
      const float magnitude = fabsf(halves[i]);
      // fmaxf passes over NaN, and the row would look like any other.
      largest = fmaxf(largest, isfinite(magnitude) ? magnitude : INFINITY);
    }
    largest = warpMax(largest);
    const double scale = largest > 0 ? static_cast<double>(largestByte) / largest : 0.0;
#pragma unroll
    for (int i = 0; i < perLane; ++i) {
      bytes[lane * perLane + i] = static_cast<int8_t>(roundHalvesUp(halves[i] * scale));
    }
    return __float2half_rn(largest);
  }
};

template <int headDim> struct RowOf<I8Row, headDim> : ScaledRow<headDim> {
  using Base = ScaledRow<headDim>;

  static __device__ void read(const Rows& from, int64_t row, int lane,
                              float (&to)[Base::perLane]) {
    const int8_t* bytes = static_cast<const int8_t*>(from.elements) + row * headDim;
    Base::decode(from.largest[row], bytes, lane, to);
  }

  static __device__ void write(const Rows& to, int64_t row, int lane,
                               const float (&from)[Base::perLane]) {
    int8_t* bytes = static_cast<int8_t*>(to.elements) + row * headDim;
    const __half largest = Base::encode(bytes, lane, from);
    if (lane == 0) to.largest[row] = largest;
  }
};

template <int headDim> struct RowOf<I8Packed, headDim> : ScaledRow<headDim> {
  using Base = ScaledRow<headDim>;
  static constexpr int rowBytes = headDim + sizeof(__half);

  static __device__ void read(const Rows& from, int64_t row, int lane,
                              float (&to)[Base::perLane]) {
    const char* packed = static_cast<const char*>(from.elements) + row * rowBytes;
    const __half largest = *reinterpret_cast<const __half*>(packed);
    Base::decode(largest, reinterpret_cast<const int8_t*>(packed + sizeof(__half)), lane, to);
  }

  static __device__ void write(const Rows& to, int64_t row, int lane,
                               const float (&from)[Base::perLane]) {
    char* packed = static_cast<char*>(to.elements) + row * rowBytes;
    const __half largest =
        Base::encode(reinterpret_cast<int8_t*>(packed + sizeof(__half)), lane, from);
    if (lane == 0) *reinterpret_cast<__half*>(packed) = largest;
  }
};

template <typename Format, int headDim> constexpr int rowBytesOf = headDim * sizeof(float);
template <int headDim> constexpr int rowBytesOf<F16, headDim> = headDim * sizeof(__half);
template <int headDim> constexpr int rowBytesOf<Bf16, headDim> = headDim * sizeof(__half);
template <int headDim>
constexpr int rowBytesOf<I8Packed, headDim> = RowOf<I8Packed, headDim>::rowBytes;
