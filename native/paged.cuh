// The paged layout, shared by all kernels. README.md describes it in words.
//
// A pool is [blocks, blockSize, headDim], one for keys and one for values; blockSize is
// 1 << blockShift, at least 16. A sequence is one KV head's rows; row r of it lies in block
// table[sequence, r >> blockShift] at r & (blockSize - 1). A unit is what is read together for all
// KV heads of a layer: a context, or a request's tail; sequence = unit * kvHeads + kvHead.
#pragma once

#include <stdint.h>

/** Table entry of a row: rows of an aligned run of 16 share theirs, since blocks are no smaller. */
__device__ __forceinline__ int blockOf(const int* tableRow, int row, int blockShift) {
  return __ldg(tableRow + (row >> blockShift));
}

/** Index of a row in a pool, given its block. */
__device__ __forceinline__ int64_t rowInPool(int block, int row, int blockShift) {
  return (static_cast<int64_t>(block) << blockShift) + (row & ((1 << blockShift) - 1));
}

__device__ __forceinline__ int64_t pooledRow(const int* tableRow, int row, int blockShift) {
  return rowInPool(blockOf(tableRow, row, blockShift), row, blockShift);
}

/** A unit's queries: `count` of them from `first` on; all query heads of each read the unit. */
struct UnitQueries {
  int first;
  int count;
  /** 1: query i of `count` sees all but the last count - 1 - i rows (its own and earlier ones). */
  int causal;
  int unused;
};

/**
 * A sequence is read in pieces, which its own length alone decides: each is summed up by itself,
 * and merge adds them in order. So a query's result has the same bits whatever else is computed,
 * and whoever computes the pieces.
 */
struct Pieces {
  /** Tiles of a piece, the last one's may be fewer; and of the sequence. */
  int each;
  int tiles;
  int count;

  __device__ __forceinline__ Pieces(int length, int tileKeys, int kvHeads)
      : each(0), tiles((length + tileKeys - 1) / tileKeys), count(0) {
    if (tiles == 0) return;
    const int most = (mostPieces + kvHeads - 1) / kvHeads;
    const int atLeast = max(leastTiles, (tiles + most - 1) / most);
    const int wanted = (tiles + atLeast - 1) / atLeast;
    each = (tiles + wanted - 1) / wanted;
    count = (tiles + each - 1) / each;
  }

  /** Of all heads of a unit, about: so that one long context keeps a large card busy. */
  static constexpr int mostPieces = 192;
  /** What a piece leaves must be little beside what it reads. */
  static constexpr int leastTiles = 8;
};

/**
 * Work is dealt in shares of equal cost: pieces of all sequences laid end to end on a line, each
 * with `entryTiles` in front for what entering and leaving it costs (measured: 1 is slower where
 * there are many tails, 2 to 5 are alike). A share is the pieces that begin in it. So lengths may
 * be as ragged as they like.
 */
constexpr int entryTiles = 3;

/** Where a sequence begins; behind the last one, where all end. An empty one takes no room. */
struct Start {
  /** On the line, in tiles. */
  int place;
  /** Among the rows of the parts: a piece leaves one for each row, query times group, it has. */
  int part;
};

/** How the line is cut into shares. */
struct Shares {
  int blocks;
  int line;

  /** With a line shorter than the grid, each of the first thread blocks has one tile of it. */
  __device__ __forceinline__ Shares(int grid, int line_) : blocks(min(grid, line_)), line(line_) {}

  /** Thread block b has the line from begin(b) up to begin(b + 1). */
  __device__ __forceinline__ int begin(int block) const {
    return static_cast<int>(static_cast<int64_t>(block) * line / blocks);
  }
};
