// Bringing tiles of keys and values into shared memory: the shape of a variant, the walk along the
// tiles of all sequences, and the copies.
#pragma once

#include "formats.cuh"
#include "paged.cuh"

/** What attend.cu documents; the same for all variants. */
struct AttendArguments {
  const void* queries;
  const void* keys;
  const void* values;
  const __half* keyLargest;
  const __half* valueLargest;
  const float* keyScales;
  const float* valueScales;
  const int* table;
  const int* lengths;
  const int* tileStarts;
  const UnitQueries* units;
  float* partials;
  float* stats;
  int sequences;
  int kvHeads;
  int group;
  int maxBlocks;
  int blockShift;
  float scaleLog2;
};

/**
 * A variant: stored format, head dim and most rows (queries times group) of a unit. Few rows leave
 * the tensor cores idle whatever one does, so each warp takes other keys; many rows are dealt to
 * the warps instead, and each reads all keys of the tile.
 */
template <typename Format_, int headDim_, int rows_> struct Variant {
  using Format = Format_;
  using Element = typename Format::Element;
  using Compute = typename Format::Compute;
  static constexpr int headDim = headDim_;
  static constexpr int rows = rows_;
  static constexpr bool isBytes = sizeof(Element) == 1;
  static constexpr int rowWarps = rows / 16;
  static constexpr int keyWarps = rows == 16 ? 4 : rows == 64 ? 2 : 1;
  static constexpr int warps = rowWarps * keyWarps;
  static constexpr int threads = warps * 32;
  static constexpr int blocksPerSm = rows == 16 ? 2 : 1;
  static constexpr int tileKeys = isBytes ? 128 : 64;
  static constexpr int warpKeys = tileKeys / keyWarps;
  static constexpr int stepKeys = warpKeys < 64 ? warpKeys : 64;
  static constexpr int rowBytes = headDim * sizeof(Element);
  static constexpr int pieces = rowBytes / 16;
  static constexpr int tileBytes = tileKeys * rowBytes;
  static constexpr int scaleBytes = isRowScaled<Format> ? tileKeys * sizeof(__half) : 0;
  static constexpr int stages = 3;
  static constexpr int stageBytes = 2 * (tileBytes + scaleBytes);
  static constexpr int statsBytes = (keyWarps - 1) * rows * 2 * sizeof(float);
  static constexpr int sharedBytes = stages * stageBytes + statsBytes;
  static_assert((keyWarps - 1) * rows * headDim * sizeof(float) <= 2 * tileBytes,
                "warps combine their sums in the stage that was read last");
  static_assert(sharedBytes <= 99 * 1024, "sm_86 and sm_89 have no more");
};

/** A tile, as a place on the line of all sequences (paged.cuh). */
struct TileCursor {
  const int* starts;
  const int* lengths;
  int place;
  int sequence;
  /** The tile's number in its sequence. */
  int tile;
  /** The place at which the sequence ends. */
  int end;
  int length;

  /** `sequence` is the one that has `place`. */
  __device__ TileCursor(const AttendArguments& a, int sequence_, int place_)
      : starts(a.tileStarts), lengths(a.lengths) {
    enter(sequence_);
    place = max(place, place_);
    tile = place - starts[sequence_] - entryTiles;
  }

  /** Past the last tile the place is the line's end, and the rest means nothing. */
  __device__ void advance(int sequences) {
    ++place;
    ++tile;
    if (place < end) return;
    int next = sequence + 1;
    while (next < sequences && starts[next + 1] == starts[next]) ++next;
    if (next < sequences) enter(next);
  }

  __device__ void enter(int next) {
    const int start = starts[next];
    sequence = next;
    place = start + entryTiles;
    tile = 0;
    end = starts[next + 1];
    length = lengths[next];
  }
};

/** The sequence that has a place on the line. All threads ask together: one look at memory. */
template <int threads> __device__ int sequenceAt(const AttendArguments& a, int place) {
  int found = 0;
  for (int first = 1; first < a.sequences; first += threads) {
    const int s = first + threadIdx.x;
    found += __syncthreads_count(s < a.sequences && a.tileStarts[s] <= place);
  }
  return found;
}

/** Copies tiles into stages. A warp copies runs of eight rows, which share a block. */
template <typename V> struct TileCopier {
  static constexpr int runs = V::tileKeys / 8 / V::warps;
  static constexpr int rowsAtOnce = 32 / V::pieces;

  TileCursor at;
  int blocks[runs];

  __device__ TileCopier(const AttendArguments& a, const TileCursor& first) : at(first) {
    lookUp(a);
  }

  __device__ int runStart(int run) const {
    return at.tile * V::tileKeys + ((threadIdx.x / 32) * runs + run) * 8;
  }

  /** Fetches the table entries of the tile at hand, one tile before they are needed. */
  __device__ void lookUp(const AttendArguments& a) {
    const int* tableRow = a.table + static_cast<int64_t>(at.sequence) * a.maxBlocks;
#pragma unroll
    for (int run = 0; run < runs; ++run) {
      const int row = runStart(run);
      blocks[run] = row < at.length ? blockOf(tableRow, row, a.blockShift) : 0;
    }
  }

  __device__ void copy(const AttendArguments& a, uint32_t stage) const {
    const int lane = threadIdx.x % 32;
    const int piece = lane % V::pieces;
#pragma unroll
    for (int run = 0; run < runs; ++run) {
      const int start = runStart(run);
      const int64_t pooled = rowInPool(blocks[run], start, a.blockShift);
      const int inTile = start - at.tile * V::tileKeys;
#pragma unroll
      for (int pass = 0; pass < 8 / rowsAtOnce; ++pass) {
        const int i = pass * rowsAtOnce + lane / V::pieces;
        // Rows past the end must become zeros: zero times what lies there could be NaN.
        const int bytes = start + i < at.length ? 16 : 0;
        const int64_t offset = bytes == 0 ? 0 : (pooled + i) * V::rowBytes + piece * 16;
        const uint32_t target = stage + swizzled<V::rowBytes>(inTile + i, piece);
        copyAsync(target, static_cast<const char*>(a.keys) + offset, bytes);
        copyAsync(target + V::tileBytes, static_cast<const char*>(a.values) + offset, bytes);
      }
      if constexpr (isRowScaled<typename V::Format>) {
        copyScales(a, stage + 2 * V::tileBytes, start, inTile, pooled);
      }
    }
  }

  /** The largest magnitudes of eight rows are 16 bytes of keys' and 16 of values'. */
  __device__ void copyScales(const AttendArguments& a, uint32_t scales, int start, int inTile,
                             int64_t pooled) const {
    const int lane = threadIdx.x % 32;
    if (lane >= 2) return;
    const int present = min(max(at.length - start, 0), 8);
    const __half* source = lane == 0 ? a.keyLargest : a.valueLargest;
    copyAsync(scales + lane * V::scaleBytes + inTile * static_cast<int>(sizeof(__half)),
              source + (present == 0 ? 0 : pooled), present * static_cast<int>(sizeof(__half)));
  }
};
