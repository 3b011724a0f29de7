#pragma once

// Vectors of the width that the including file is compiled for. Everything has internal linkage:
// a file built for AVX-512 must never lend its copy of a function to a file built without.

#include <cstdint>
#include <cstring>

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kWide = 4;  ///< vectors a row in the micro-kernel; kTall * kWide accumulators fit 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kWide = 2;
#else
constexpr int kLanes = 4;
constexpr int kWide = 2;
#endif
constexpr int kTall = 6;  ///< rows in the micro-kernel

using Vec = float __attribute__((vector_size(kLanes * sizeof(float))));
using IntVec = std::int32_t __attribute__((vector_size(kLanes * sizeof(float))));

[[maybe_unused]] inline Vec load(const float* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

[[maybe_unused]] inline void store(float* p, Vec v) { std::memcpy(p, &v, sizeof v); }

/// x in every lane: subtracting zero changes nothing, so the compiler leaves a plain broadcast (adding zero it would
/// have to do, for the sake of -0).
[[maybe_unused]] inline Vec splat(float x) { return x - Vec{}; }

[[maybe_unused]] inline Vec max(Vec a, Vec b) { return a > b ? a : b; }

[[maybe_unused]] inline float sum(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  return lanes[0];
}

[[maybe_unused]] inline float max(Vec v) {
  float lanes[kLanes];
  store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes[i] = lanes[i] > lanes[i + width] ? lanes[i] : lanes[i + width];
  return lanes[0];
}

/// e^x for x <= 0, within 2 ulp; 0 below -87, where float32 leaves its normal range; NaN of NaN.
[[maybe_unused]] inline Vec exp_negative(Vec x) {
  constexpr float kLog2E = 1.44269504F;
  constexpr float kLn2High = 0.693359375F;
  constexpr float kLn2Low = -2.12194440e-4F;
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it leaves the nearest integer in the low bits
  constexpr float kLowest = -87.0F;
  const Vec low = splat(kLowest);
  const Vec clamped = x < low ? low : x;  // a NaN stays one
  const Vec shifted = clamped * kLog2E + kRound;
  const Vec n = shifted - kRound;
  const Vec r = clamped - n * kLn2High - n * kLn2Low;
  Vec p = splat(1.98756915e-4F);
  p = p * r + 1.39819994e-3F;
  p = p * r + 8.33345190e-3F;
  p = p * r + 4.16657959e-2F;
  p = p * r + 1.66666657e-1F;
  p = p * r + 5.00000012e-1F;
  p = p * (r * r) + r + 1.0F;
  IntVec bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  constexpr std::int32_t kBias = 127;
  constexpr int kMantissa = 23;
  bits = (bits + kBias) << kMantissa;
  Vec scale;
  std::memcpy(&scale, &bits, sizeof scale);
  return x < low ? Vec{} : p * scale;
}

/// c[R][V * kLanes] (+)= a[R][depth] b[depth][V * kLanes].
template <int R, int V>
inline void multiply(const float* a, std::int64_t a_stride, const float* b, std::int64_t b_stride, std::int64_t depth,
                     float* c, std::int64_t c_stride, bool add) {
  Vec acc[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) acc[r][v] = add ? load(c + r * c_stride + v * kLanes) : Vec{};
  for (std::int64_t t = 0; t < depth; ++t) {
    Vec row[V];
    for (int v = 0; v < V; ++v) row[v] = load(b + t * b_stride + v * kLanes);
    for (int r = 0; r < R; ++r) {
      const Vec x = splat(a[r * a_stride + t]);
      for (int v = 0; v < V; ++v) acc[r][v] += x * row[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) store(c + r * c_stride + v * kLanes, acc[r][v]);
}

/// Small products of packed operands: c [rows][cols] (+)= a [rows][depth] b [depth][cols].
struct TileProduct {
  const float* a;
  std::int64_t a_stride;
  const float* b;
  std::int64_t b_stride;
  float* c;
  std::int64_t c_stride;
  std::int64_t rows, cols, depth;  ///< cols a multiple of kLanes
  bool add;
};

template <int R>
inline void multiply_rows(const TileProduct& p, std::int64_t row) {
  const float* a = p.a + row * p.a_stride;
  float* c = p.c + row * p.c_stride;
  std::int64_t col = 0;
  for (; col + kWide * kLanes <= p.cols; col += kWide * kLanes)
    multiply<R, kWide>(a, p.a_stride, p.b + col, p.b_stride, p.depth, c + col, p.c_stride, p.add);
  for (; col < p.cols; col += kLanes)
    multiply<R, 1>(a, p.a_stride, p.b + col, p.b_stride, p.depth, c + col, p.c_stride, p.add);
}

[[maybe_unused]] inline void multiply_tile(const TileProduct& p) {
  std::int64_t row = 0;
  for (; row + kTall <= p.rows; row += kTall) multiply_rows<kTall>(p, row);
  switch (p.rows - row) {
    case 1:
      return multiply_rows<1>(p, row);
    case 2:
      return multiply_rows<2>(p, row);
    case 3:
      return multiply_rows<3>(p, row);
    case 4:
      return multiply_rows<4>(p, row);
    case 5:
      return multiply_rows<5>(p, row);
    default:
      return;
  }
}

}  // namespace
}  // namespace purekv
