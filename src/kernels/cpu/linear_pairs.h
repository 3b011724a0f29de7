#pragma once

// Packing for products of bf16 pairs (AVX-512 BF16 and AMX share the layout of weights): a 32-bit lane holds the values
// of inputs k and k + 1, k even. Internal linkage throughout (cpu/simd.h).

#include "kernels/cpu/linear_body.h"

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

constexpr std::int64_t kPairDepth = 512;  ///< bf16 values a packed row holds
constexpr std::int64_t kPairStep = 32;    ///< packed slices end with zeros up to a multiple: one AMX tile's depth
constexpr std::int64_t kPairPanel = kPairDepth / 2 * kTileCols;  ///< 32-bit lanes of a column panel

static_assert(kLanes == 16 && kPairDepth % kPairStep == 0);

[[nodiscard]] constexpr std::int64_t padded_depth(std::int64_t depth) {
  return (depth + kPairStep - 1) / kPairStep * kPairStep;
}

/// Rows [x.rows rounded up to `tile`][kPairDepth] of bf16, zeros where x ends.
inline void pack_x_pairs(const InputRows& x, const DepthSlice& slice, std::int64_t tile, void* out) {
  auto* to = static_cast<std::uint16_t*>(out);
  const std::int64_t padded = padded_depth(slice.depth);
  const std::int64_t rows = (x.rows + tile - 1) / tile * tile;
  for (std::int64_t r = 0; r < rows; ++r, to += kPairDepth) {
    for (std::int64_t k = 0; k < padded; k += kLanes) {
      HalfVec values{};
      if (r < x.rows && k < slice.depth) {
        const float* from = x.data + r * x.stride + slice.first + k;
        const std::int64_t left = slice.depth - k;
        const Vec input = left >= kLanes ? load(from) : load_some(from, left);
        values = __builtin_convertvector(round_bits(input) >> 16U, HalfVec);
      }
      std::memcpy(to + k, &values, sizeof values);
    }
  }
}

/// Panels [kPairDepth / 2][kTileCols] of pairs.
inline void pack_weight_pairs(const WeightRows& w, const DepthSlice& slice, void* out) {
  auto* to = static_cast<float*>(out);  // moved as 32-bit lanes, never computed with
  constexpr std::int64_t kBytes = 2 * kPairStep;
  for (std::int64_t row = 0; row < w.rows; row += kTileCols, to += kPairPanel)
    for (std::int64_t k = 0; k < slice.depth; k += kPairStep)
      for (int v = 0; v < kVectors; ++v) {
        const std::int64_t first = row + v * kLanes;
        const std::int64_t left = slice.depth - k;
        Vec block[kLanes];
        gather_block(
            [&](int j) {
              const unsigned char* p = weight_at(w, first + j, slice.first + k);
              if (left >= kPairStep) return Stored<DType::kF32>::load(p);
              unsigned char some[kBytes] = {};
              std::memcpy(some, p, static_cast<std::size_t>(2 * left));
              return Stored<DType::kF32>::load(some);
            },
            w.rows - first, block);
        for (int i = 0; i < kLanes; ++i) store(to + (k / 2 + i) * kTileCols + v * kLanes, block[i]);
      }
}

}  // namespace
}  // namespace purekv
