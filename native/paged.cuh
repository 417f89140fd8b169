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
 * Work is dealt in shares of equal cost: tiles of all sequences laid end to end on a line, each
 * sequence with `entryTiles` in front for what entering and leaving it costs (measured: 1 is
 * slower, 2 to 5 are alike). So lengths may be as ragged as they like. tileStarts[s] is where
 * sequence s begins; an empty one takes no room.
 */
constexpr int entryTiles = 3;

/** How the line is cut into shares, none of them empty. */
struct Shares {
  int blocks;
  int line;

  /** With a line shorter than the grid, each of the first thread blocks has one tile of it. */
  __device__ __forceinline__ Shares(int grid, int line_) : blocks(min(grid, line_)), line(line_) {}

  /** Thread block b has the line from begin(b) up to begin(b + 1). */
  __device__ __forceinline__ int begin(int block) const {
    return static_cast<int>(static_cast<int64_t>(block) * line / blocks);
  }

  /** The thread block that has a place on the line: the inverse of begin. */
  __device__ __forceinline__ int blockAt(int place) const {
    return static_cast<int>((static_cast<int64_t>(place + 1) * blocks - 1) / line);
  }
};

/**
 * Where a thread block leaves what it found in (its part of) a sequence. Along the line either
 * the block or the sequence grows from one part to the next, so no two parts share a slot, and
 * there are fewer than blocks + sequences slots.
 */
__device__ __forceinline__ int slotOf(int block, int sequence) { return block + sequence; }
