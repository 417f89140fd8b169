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
  const Start* starts;
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
 * A variant: stored format, head dim and most rows (queries times group) of a unit. Rows are dealt
 * to the warps, sixteen to each; with no more than sixteen, four warps share them: each takes other
 * keys for the logits and other channels for the results, and they exchange the weights. Every sum
 * has the same order in all variants, so a row's result has the same bits in each.
 */
template <typename Format_, int headDim_, int rows_> struct Variant {
  using Format = Format_;
  using Element = typename Format::Element;
  using Compute = typename Format::Compute;
  static constexpr int headDim = headDim_;
  static constexpr int rows = rows_;
  static constexpr bool isBytes = sizeof(Element) == 1;
  static constexpr int rowWarps = rows / 16;
  /** Warps that share rows. */
  static constexpr int sharers = rows == 16 ? 4 : 1;
  static constexpr int warps = rowWarps * sharers;
  static constexpr int threads = warps * 32;
  static constexpr int blocksPerSm = rows == 128 ? 1 : 2;
  static constexpr int tileKeys = isBytes ? 128 : 64;
  /** Keys between two looks at the largest logit; and a warp's own of them. */
  static constexpr int stepKeys = 64;
  static constexpr int warpKeys = stepKeys / sharers;
  /** Channels whose results a warp sums up. */
  static constexpr int warpChannels = headDim / sharers;
  static constexpr int rowBytes = headDim * sizeof(Element);
  static constexpr int pieces = rowBytes / 16;
  static constexpr int tileBytes = tileKeys * rowBytes;
  static constexpr int scaleBytes = isRowScaled<Format> ? tileKeys * sizeof(__half) : 0;
  static constexpr int stages = 3;
  static constexpr int stageBytes = 2 * (tileBytes + scaleBytes);
  static constexpr int largestBytes = sharers == 1 ? 0 : sharers * 16 * sizeof(float);
  static constexpr int sharedBytes = stages * stageBytes + largestBytes;
  static_assert(sharedBytes <= 99 * 1024, "sm_86 and sm_89 have no more");
};

/** A tile of a piece of a sequence (paged.cuh). */
struct TileCursor {
  /** Where the piece begins on the line; past the last one, behind every share. */
  int place;
  int sequence;
  int length;
  /** Tiles of a piece, and of the sequence. */
  int each;
  int tiles;
  /** The tile's number in its sequence, and where its piece ends. */
  int tile;
  int pieceEnd;

  /** The first tile of the first piece that begins at `place_` or behind it, in `sequence_` on. */
  template <int tileKeys>
  __device__ static TileCursor from(const AttendArguments& a, int sequence_, int place_) {
    TileCursor at = {};
    at.enter<tileKeys>(a, sequence_);
    const int width = at.each + entryTiles;
    const int piece = width == entryTiles ? 0 : (place_ - at.place + width - 1) / width;
    at.place += piece * width;
    at.tile = piece * at.each;
    at.pieceEnd = min(at.tile + at.each, at.tiles);
    if (at.tile >= at.tiles) at.enterNext<tileKeys>(a);
    return at;
  }

  __device__ bool isPiecesLast() const { return tile + 1 == pieceEnd; }

  __device__ int piece() const { return tile / each; }

  template <int tileKeys> __device__ void advance(const AttendArguments& a) {
    if (++tile < pieceEnd) return;
    if (tile < tiles) {
      place += each + entryTiles;
      pieceEnd = min(tile + each, tiles);
    } else {
      enterNext<tileKeys>(a);
    }
  }

  template <int tileKeys> __device__ void enterNext(const AttendArguments& a) {
    int next = sequence + 1;
    while (next < a.sequences && a.starts[next + 1].place == a.starts[next].place) ++next;
    if (next < a.sequences) {
      enter<tileKeys>(a, next);
    } else {
      place = INT32_MAX;
    }
  }

  template <int tileKeys> __device__ void enter(const AttendArguments& a, int next) {
    sequence = next;
    length = a.lengths[next];
    place = a.starts[next].place;
    const Pieces pieces(length, tileKeys, a.kvHeads);
    each = pieces.each;
    tiles = pieces.tiles;
    tile = 0;
    pieceEnd = min(each, tiles);
  }
};

/** The sequence that has a place on the line. All threads ask together: one look at memory. */
template <int threads> __device__ int sequenceAt(const AttendArguments& a, int place) {
  int found = 0;
  for (int first = 1; first < a.sequences; first += threads) {
    const int s = first + threadIdx.x;
    found += __syncthreads_count(s < a.sequences && a.starts[s].place <= place);
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
