#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "flow/kv_view.h"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/mma.cuh"

/// One query row a head over ragged cache rows: bound by the bytes of the keys and values, which are read once.
///
/// Bytes: 4 head_dim a cache row; 4 group head_dim FLOPs a row and group, padded to groups of 8. A block is a piece of
/// one (sequence, KV head) pair. Both products have 16 cache rows or 16 value dimensions on the m side and 8 query
/// heads on the n side of m16n8k16. Neither needs its operand shuffled: the order of the summed index is free, so
/// a lane takes 16 contiguous bytes of a key, and of a value row 16 bytes of four rows, which it pairs itself.
/// A thread reads back only what it copied, so the ring needs no barrier; 96 KiB of it at head_dim 128.
///
/// Pieces are equal over all pairs (below), so heads of different lengths load the multiprocessors evenly. The last
/// piece of a pair to finish joins them all, in the order of the rows.
namespace purekv::cuda {

constexpr int kDecodeTileKeys = 16;  ///< cache rows that a warp takes at once

struct DecodePairParams {
  const __nv_bfloat16* qkv = nullptr;  ///< [sequences, stride]: q, k, v before RoPE
  std::int64_t qkv_stride = 0;
  const float* cos = nullptr;
  const float* sin = nullptr;
  const KvRows* rows = nullptr;  ///< [pairs]
  int pairs = 0, kv_heads = 0, group = 0, dim = 0;
  float scale_log2 = 0;  ///< scale * log2(e)
  __nv_bfloat16* out = nullptr;
  std::int64_t out_stride = 0;
  float* partial_out = nullptr;    ///< [blocks][group][padded dim], not normalised
  float2* partial_sums = nullptr;  ///< [blocks][group] largest exponent (base 2), sum
  int* finished = nullptr;         ///< [pairs] zero between launches
};

template <int kDim, int kHeadTiles, int kRing_>
struct DecodeShape {
  static constexpr int kWarps = kDim > 128 ? 4 : 8;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kHeads = 8 * kHeadTiles;
  static constexpr int kPieces = kDim / 16;  ///< 16-byte copies a thread of one tile's keys, or of its values
  static constexpr int kSlotBytes = kPieces * kThreads * 16;
  static constexpr int kRing = kRing_;               ///< slots: keys and values take turns
  static constexpr int kQueryPitch = kDim * 2 + 64;  ///< bytes; 64: neighbouring heads fall into different banks
  static constexpr int kQueryBytes = (kHeads + 1) * kQueryPitch;  ///< and the new key
  static constexpr int kMerge = kWarps * kHeads * kDim;           ///< floats, in the ring's place
  static constexpr int kRingBytes = std::max(kRing * kSlotBytes, 4 * kMerge);
  static constexpr std::size_t kSharedBytes =
      kRingBytes + kQueryBytes + kDim * 2 + static_cast<int>(sizeof(float)) * (2 * kWarps * kHeads + kHeads);
  static constexpr int kResident = kDim > 128 || kHeadTiles > 1 ? 1 : 2;  ///< blocks that share a multiprocessor
  static constexpr bool kAnyDim = kDim > 128;  ///< rows that are not a multiple of 16 bytes come 4 bytes at once
};

/// Which rows of which pair a block has.
struct DecodePiece {
  int pair = -1, begin = 0, end = 0;  ///< pair -1: none
  int index = 0, pieces = 1;          ///< of its pair
  KvRows rows;
};

template <class T>
__device__ inline T* from_lane(T* pointer, int lane) {
  return reinterpret_cast<T*>(__shfl_sync(~0U, reinterpret_cast<unsigned long long>(pointer), lane));
}

__device__ inline int piece_count(int held, int size) { return max(1, (held + size - 1) / size); }

/// Every warp finds the block's piece for itself, before the previous kernel has ended: the counts are older. A pair
/// is cut into equal runs of whole tiles; how many depends on its share of all pairs' rows and on nothing else, at
/// least one. Pieces of fewer rows than `least` do not pay.
__device__ inline DecodePiece find_piece(const DecodePairParams& p, int least) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const int blocks = static_cast<int>(gridDim.x);
  const KvRows mine = lane < p.pairs ? p.rows[lane] : KvRows{};
  const auto held_by = [&](int first) {
    return static_cast<int>(first == 0 ? mine.rows : first + lane < p.pairs ? p.rows[first + lane].rows : 0);
  };
  const auto sum_of = [&](const auto& value) {
    long long sum = 0;
    for (int first = 0; first < p.pairs; first += 32)
      if (first + lane < p.pairs) sum += value(held_by(first));
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0U, sum, step);
    return sum;
  };
  const long long total = sum_of([](int held) { return held; });
  int size = max(least, static_cast<int>((total + blocks - 1) / blocks));
  // Rounding up may ask for more blocks than there are; with so many fewer it cannot.
  if (sum_of([size](int held) { return piece_count(held, size); }) > blocks)
    size = max(least, static_cast<int>((total + blocks - p.pairs - 1) / (blocks - p.pairs)));
  const int wanted = static_cast<int>(blockIdx.x);
  int before = 0;
  for (int first = 0; first < p.pairs; first += 32) {
    const int held = held_by(first);
    const int pieces = first + lane < p.pairs ? piece_count(held, size) : 0;
    int upto = pieces;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0U, upto, step);
      if (lane >= step) upto += other;
    }
    const int end = before + upto;
    const unsigned here = __ballot_sync(~0U, wanted >= end - pieces && wanted < end);
    if (here != 0) {
      const int owner = __ffs(static_cast<int>(here)) - 1;
      const KvRows owned = first == 0 ? mine : p.rows[min(first + lane, p.pairs - 1)];
      DecodePiece piece{.pair = first + owner};
      piece.index = wanted - __shfl_sync(~0U, end - pieces, owner);
      piece.pieces = __shfl_sync(~0U, pieces, owner);
      piece.rows = {from_lane(owned.k, owner), from_lane(owned.v, owner), __shfl_sync(~0U, held, owner)};
      const long long tiles = (piece.rows.rows + kDecodeTileKeys - 1) / kDecodeTileKeys;
      const auto border = [&](int i) {
        return static_cast<int>(
            min(piece.rows.rows, static_cast<std::int64_t>(tiles * i / piece.pieces * kDecodeTileKeys)));
      };
      piece.begin = border(piece.index);
      piece.end = border(piece.index + 1);
      return piece;
    }
    before = __shfl_sync(~0U, end, 31);
  }
  return {};
}

__device__ inline void cp_async_4(std::uint32_t to, const void* from, std::uint32_t bytes) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/// Copies a thread's part of tile after tile into its ring slots: keys, values, keys, ...
template <class Shape>
struct DecodeLoader {
  const std::byte* keys;
  const std::byte* values;
  int row_bytes, begin, end;
  int tile, turn = 0;

  __device__ DecodeLoader(int dim, const DecodePiece& piece)
      : keys(static_cast<const std::byte*>(piece.rows.k)),
        values(static_cast<const std::byte*>(piece.rows.v)),
        row_bytes(2 * dim),
        begin(piece.begin),
        end(piece.end),
        tile(static_cast<int>(threadIdx.x / 32)) {}

  __device__ void copy(std::uint32_t to, const std::byte* base, int row, int at) const {
    const std::byte* from = base + static_cast<std::int64_t>(row) * row_bytes + at;
    if (Shape::kAnyDim && row_bytes % 16 != 0) {
      for (int i = 0; i < 16; i += 4) {
        const bool there = row < end && at + i < row_bytes;
        cp_async_4(to + i, there ? from + i : base, there ? 4 : 0);
      }
      return;
    }
    const bool there = row < end && at < row_bytes;
    cp_async_16(to, there ? from : base, there ? 16 : 0);
  }

  /// Starts the next half tile's copies, or an empty group behind the last one.
  __device__ void load(std::uint32_t slot) {
    const int g = static_cast<int>(threadIdx.x % 32 / 4);
    const int t = static_cast<int>(threadIdx.x % 4);
    const int first = begin + tile * kDecodeTileKeys;
    constexpr std::uint32_t kPiece = Shape::kThreads * 16;
    if (first < end) {
      if (turn == 0) {
#pragma unroll
        for (int i = 0; i < Shape::kPieces; ++i)  // rows g and g + 8, 32 dims of a quad at a time
          copy(slot + i * kPiece, keys, first + g + 8 * (i % 2), 64 * (i / 2) + 16 * t);
      } else {
#pragma unroll
        for (int i = 0; i < Shape::kPieces; ++i)  // rows 2t, 2t + 1, 2t + 8, 2t + 9, 64 dims of 8 lanes at a time
          copy(slot + i * kPiece, values, first + 2 * t + i % 2 + 8 * (i / 2 % 2), 128 * (i / 4) + 16 * g);
      }
    }
    cp_async_commit();
    tile += turn * Shape::kWarps;
    turn ^= 1;
  }
};

/// An 8 x 8 matrix of 2-byte elements across the warp, transposed.
__device__ inline std::uint32_t transpose_8x8(std::uint32_t x) {
  std::uint32_t r;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(r) : "r"(x));
  return r;
}

/// A warp's running softmax of its tiles, for heads 2t and 2t + 1 of each head tile.
template <int kDim, int kHeadTiles>
struct DecodeState {
  float top[kHeadTiles][2], sum[kHeadTiles][2];  ///< largest exponent; sum over this lane's rows only
  float o[kHeadTiles][kDim / 16][4];             ///< dims 2i, 2i + 1 of lane g's 8 in each 64, by head

  __device__ DecodeState() {
    for (int n = 0; n < kHeadTiles; ++n) {
      for (int h = 0; h < 2; ++h) top[n][h] = -INFINITY, sum[n][h] = 0;
      for (int m = 0; m < kDim / 16; ++m)
        for (int i = 0; i < 4; ++i) o[n][m][i] = 0;
    }
  }

  /// Scores of one tile (rows g: 0, 1; rows g + 8: 2, 3; each heads 2t, 2t + 1) become weights, paired by rows.
  __device__ void weigh(int n, float (&s)[4], std::uint32_t (&p)[2]) {
    for (int h = 0; h < 2; ++h) {
      float high = fmaxf(s[h], s[h + 2]);
      for (int step = 4; step < 32; step *= 2) high = fmaxf(high, __shfl_xor_sync(~0U, high, step));
      const float next = fmaxf(top[n][h], high);
      const float shrink = exp2_fast(top[n][h] - next);
      top[n][h] = next;
      s[h] = exp2_fast(s[h] - next);
      s[h + 2] = exp2_fast(s[h + 2] - next);
      sum[n][h] = sum[n][h] * shrink + s[h] + s[h + 2];
      for (int m = 0; m < kDim / 16; ++m) {
        o[n][m][h] *= shrink;
        o[n][m][h + 2] *= shrink;
      }
    }
    p[0] = transpose_8x8(pack_bf16(s[0], s[1]));
    p[1] = transpose_8x8(pack_bf16(s[2], s[3]));
  }
};

}  // namespace purekv::cuda
