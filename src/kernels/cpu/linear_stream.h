#pragma once

// Few rows against weights in place, at the width of the including file; internal linkage throughout (cpu/simd.h).

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/linear_tile.h"

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

constexpr int kStreamTall = 4;           ///< input rows a pass
constexpr std::int64_t kAhead = 2048;    ///< bytes between a prefetch and its read: one trip to memory
constexpr std::int64_t kLineBytes = 64;  ///< of the cache

/// Sums of one weight row against R input rows, in A sets of accumulators. `fetch`: the weights come from memory.
/// One row after the other, as memory delivers them: several at a time are several streams, and those measured half as
/// fast.
template <DType type, int R, int A>
inline void stream_row(const LinearStream& t, std::int64_t column, std::int64_t row, bool fetch) {
  using S = Stored<type>;
  constexpr std::int64_t kStep = kLineBytes / S::kSize > A * kLanes ? kLineBytes / S::kSize : A * kLanes;
  const auto* w = static_cast<const unsigned char*>(t.weight.data) + column * t.weight.stride * S::kSize;
  const float* x = t.x + row * t.x_stride;
  Vec sums[A][R] = {};
  const auto add = [&](Vec(&to)[R], std::int64_t k) __attribute__((always_inline)) {
    const Vec weight = S::load(w + k * S::kSize);
    for (int r = 0; r < R; ++r) to[r] += weight * load(x + r * t.x_stride + k);
  };
  std::int64_t k = 0;
  for (; k + kStep <= t.depth; k += kStep) {
    for (std::int64_t line = 0; fetch && line < kStep * S::kSize; line += kLineBytes)
      __builtin_prefetch(w + k * S::kSize + line + kAhead);
#pragma GCC unroll 8
    for (int u = 0; u < kStep / kLanes; ++u) add(sums[u % A], k + u * kLanes);
  }
  for (; k + kLanes <= t.depth; k += kLanes) add(sums[0], k);
  if (k < t.depth) {
    const Vec weight = S::load(w + k * S::kSize, t.depth - k);
    for (int r = 0; r < R; ++r) sums[0][r] += weight * load_some(x + r * t.x_stride + k, t.depth - k);
  }
  for (int r = 0; r < R; ++r) {
    Vec all = sums[0][r];
    for (int a = 1; a < A; ++a) all += sums[a][r];
    const float value = sum(all) + (t.bias != nullptr ? t.bias[column] : 0.0F);
    float& out = t.out[(row + r) * t.out_stride + column];
    out = t.add ? out + value : value;
  }
}

template <DType type>
inline void stream_all(const LinearStream& t) {
  for (std::int64_t column = 0; column < t.weight.rows; ++column) {
    std::int64_t row = 0;
    for (; row + kStreamTall <= t.rows; row += kStreamTall) stream_row<type, kStreamTall, 2>(t, column, row, row == 0);
    if (t.rows - row == 3) stream_row<type, 3, 2>(t, column, row, row == 0);
    if (t.rows - row == 2) stream_row<type, 2, 4>(t, column, row, row == 0);
    if (t.rows - row == 1) stream_row<type, 1, 4>(t, column, row, row == 0);
  }
}

void stream(const LinearStream& task) {
  if (task.weight.dtype == DType::kBF16) return stream_all<DType::kBF16>(task);
  if (task.weight.dtype == DType::kF16) return stream_all<DType::kF16>(task);
  stream_all<DType::kF32>(task);
}

}  // namespace
}  // namespace purekv
