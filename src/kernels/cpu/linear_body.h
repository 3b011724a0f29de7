#pragma once

// Products of float32 operands at the width of the including file; internal linkage throughout (cpu/simd.h).

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/linear_tile.h"

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

#if defined(__AVX512F__)
constexpr int kTileRows = 12;  ///< kTileRows * kVectors accumulators, kVectors weights: 26 of 32 registers
constexpr std::int64_t kDepth = 192;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;  ///< 12 accumulators, 2 weights, 1 input: 15 of 16 registers
constexpr std::int64_t kDepth = 384;
#else
constexpr int kTileRows = 4;
constexpr std::int64_t kDepth = 256;
#endif
constexpr int kVectors = 2;
constexpr int kTileCols = kVectors * kLanes;

inline const unsigned char* weight_at(const WeightRows& w, std::int64_t row, std::int64_t column) {
  const std::int64_t size = w.dtype == DType::kF32 ? 4 : 2;
  return static_cast<const unsigned char*>(w.data) + (row * w.stride + column) * size;
}

[[maybe_unused]] void pack_x(const InputRows& x, const DepthSlice& slice, void* out) {
  auto* to = static_cast<float*>(out);
  for (std::int64_t r = 0; r < x.rows; ++r, to += kDepth) {
    const float* from = x.data + r * x.stride + slice.first;
    std::int64_t k = 0;
    for (; k + kLanes <= slice.depth; k += kLanes)
      store(to + k, x.round ? bits_as<Vec>(round_bits(load(from + k))) : load(from + k));
    if (k < slice.depth) {
      const Vec rest = load_some(from + k, slice.depth - k);
      store_some(to + k, x.round ? bits_as<Vec>(round_bits(rest)) : rest, slice.depth - k);
    }
  }
}

/// `step` values of `count` <= kLanes weight rows as 32-bit lanes, transposed: block[i] lane j is dword i of row j.
template <class T>
inline void gather_block(const T& read, std::int64_t count, Vec (&block)[kLanes]) {
  for (int j = 0; j < kLanes; ++j) block[j] = j < count ? read(j) : Vec{};
  transpose(block);
}

/// One vector of a panel's columns: kLanes weight rows, depth values each, `kTileCols` floats from value to value.
template <DType type>
inline void pack_lanes(const WeightRows& w, std::int64_t row, const DepthSlice& slice, float* out) {
  constexpr bool kPairs = type == DType::kBF16;  // a lane is two neighbours: half the shuffles
  constexpr std::int64_t kStep = kPairs ? 2 * kLanes : kLanes;
  constexpr DType kLane = kPairs ? DType::kF32 : type;
  const std::int64_t count = w.rows - row < kLanes ? w.rows - row : kLanes;
  for (std::int64_t k = 0; k < slice.depth; k += kStep) {
    const std::int64_t left = slice.depth - k < kStep ? slice.depth - k : kStep;
    Vec block[kLanes];
    gather_block(
        [&](int j) {
          const unsigned char* p = weight_at(w, row + j, slice.first + k);
          if (left == kStep) return Stored<kLane>::load(p);
          unsigned char some[kStep * Stored<type>::kSize] = {};
          std::memcpy(some, p, static_cast<std::size_t>(left * Stored<type>::kSize));
          return Stored<kLane>::load(some);
        },
        count, block);
    float* to = out + k * kTileCols;
    if constexpr (kPairs) {
      for (int i = 0; i < kLanes; ++i) {
        const auto bits = bits_as<UintVec>(block[i]);
        if (2 * i < left) store(to + 2 * i * kTileCols, bits_as<Vec>(bits << 16U));
        if (2 * i + 1 < left) store(to + (2 * i + 1) * kTileCols, bits_as<Vec>(bits & 0xFFFF0000U));
      }
    } else {
      for (int i = 0; i < kLanes; ++i)
        if (i < left) store(to + i * kTileCols, block[i]);
    }
  }
}

[[maybe_unused]] void pack_weight(const WeightRows& w, const DepthSlice& slice, void* out) {
  auto* to = static_cast<float*>(out);
  for (std::int64_t row = 0; row < w.rows; row += kTileCols, to += kDepth * kTileCols)
    for (int v = 0; v < kVectors; ++v) {
      const std::int64_t first = row + v * kLanes;
      if (w.dtype == DType::kBF16)
        pack_lanes<DType::kBF16>(w, first, slice, to + v * kLanes);
      else if (w.dtype == DType::kF16)
        pack_lanes<DType::kF16>(w, first, slice, to + v * kLanes);
      else
        pack_lanes<DType::kF32>(w, first, slice, to + v * kLanes);
    }
}

/// `out` is read last: asked for first, it has arrived by then.
template <int R>
inline void prefetch_tile(const LinearBlock& block, std::int64_t row, std::int64_t col) {
  const float* out = block.out + row * block.out_stride + col;
  for (int r = 0; r < R; ++r, out += block.out_stride) {
    __builtin_prefetch(out, 1);
    __builtin_prefetch(out + kTileCols - 1, 1);
  }
}

/// Writes R rows of a tile at [row][col] of a block.
template <int R>
inline void write_tile(const LinearBlock& block, std::int64_t row, std::int64_t col, const Vec (&sums)[R][kVectors]) {
  for (int v = 0; v < kVectors; ++v) {
    const std::int64_t at = col + v * kLanes;
    const std::int64_t count = block.cols - at < kLanes ? block.cols - at : kLanes;
    if (count <= 0) return;
    float* out = block.out + row * block.out_stride + at;
    if (count == kLanes) {
      const Vec bias = block.bias != nullptr ? load(block.bias + at) : Vec{};
      for (int r = 0; r < R; ++r, out += block.out_stride)
        store(out, block.add ? load(out) + (sums[r][v] + bias) : sums[r][v] + bias);
    } else {
      const Vec bias = block.bias != nullptr ? load_some(block.bias + at, count) : Vec{};
      for (int r = 0; r < R; ++r, out += block.out_stride) {
        const Vec before = block.add ? load_some(out, count) : Vec{};
        store_some(out, before + (sums[r][v] + bias), count);
      }
    }
  }
}

template <int R>
inline void multiply_tile_at(const LinearBlock& block, std::int64_t row, std::int64_t col, const float* w) {
  constexpr std::int64_t kLine = 16;  // floats of a cache line
  const float* x = static_cast<const float*>(block.x) + row * kDepth;
  prefetch_tile<R>(block, row, col);
  Vec sums[R][kVectors] = {};
  const auto step = [&](std::int64_t k) __attribute__((always_inline)) {
    Vec weights[kVectors];
    for (int v = 0; v < kVectors; ++v) weights[v] = load(w + k * kTileCols + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec input = splat(x[r * kDepth + k]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] += input * weights[v];
    }
  };
  std::int64_t k = 0;
  while (k + kLine <= block.depth) {
    // The next tile's rows: R streams of a line each are more than the hardware follows.
    for (int r = 0; r < R; ++r) __builtin_prefetch(x + (R + r) * kDepth + k);
    const std::int64_t end = k + kLine;
#pragma GCC unroll 4
    for (; k < end; ++k) step(k);
  }
  for (; k < block.depth; ++k) step(k);
  write_tile<R>(block, row, col, sums);
}

/// The last rows of a block, fewer than kTileRows.
template <int R>
inline void multiply_rest(const LinearBlock& block, std::int64_t row, std::int64_t col, const float* w) {
  if constexpr (R > 0) {
    if (block.rows - row == R) return multiply_tile_at<R>(block, row, col, w);
    multiply_rest<R - 1>(block, row, col, w);
  }
}

[[maybe_unused]] void multiply_block(const LinearBlock& block) {
  const auto* w = static_cast<const float*>(block.weight);
  for (std::int64_t col = 0; col < block.cols; col += kTileCols, w += kDepth * kTileCols) {
    std::int64_t row = 0;
    for (; row + kTileRows <= block.rows; row += kTileRows) multiply_tile_at<kTileRows>(block, row, col, w);
    multiply_rest<kTileRows - 1>(block, row, col, w);
  }
}

}  // namespace
}  // namespace purekv
