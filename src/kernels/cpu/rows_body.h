#pragma once

// Row-wise work at the width of the including file; internal linkage throughout (cpu/simd.h).

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/rows_tile.h"

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

void rms_norm_row(const float* x, const float* weight, std::int64_t count, float eps, float* out) {
  constexpr int kSums = 4;
  Vec sums[kSums] = {};
  std::int64_t i = 0;
  for (; i + kSums * kLanes <= count; i += kSums * kLanes)
    for (int s = 0; s < kSums; ++s) {
      const Vec v = load(x + i + s * kLanes);
      sums[s] += v * v;
    }
  for (; i < count; i += kLanes) {
    const std::int64_t left = count - i;
    const Vec v = left >= kLanes ? load(x + i) : load_some(x + i, left);
    sums[0] += v * v;
  }
  const float mean = sum((sums[0] + sums[1]) + (sums[2] + sums[3])) / static_cast<float>(count);
  const float inverse = 1.0F / __builtin_sqrtf(mean + eps);
  for (i = 0; i + kLanes <= count; i += kLanes) store(out + i, load(x + i) * inverse * load(weight + i));
  for (; i < count; ++i) out[i] = x[i] * inverse * weight[i];
}

inline Vec minus_magnitude(Vec x) { return x > Vec{} ? -x : x; }

/// x / (1 + e^-x), the exponential taken on the side where it cannot overflow.
inline Vec silu(Vec x) {
  const Vec e = exp_negative(minus_magnitude(x));
  return (x < Vec{} ? x * e : x) / (1.0F + e);
}

/// c[0] + c[1] x + ...
template <int N>
inline Vec polynomial(const float (&c)[N], Vec x) {
  Vec p = splat(c[N - 1]);
  for (int i = N - 2; i >= 0; --i) p = p * x + c[i];
  return p;
}

/// x Phi(x) through erfc: its series below 1, e^-t^2 times e^polynomial above, both fitted to float32's rounding.
inline Vec gelu(Vec x) {
  constexpr float kHalfRoot = 0.70710678F;
  constexpr float kFarthest = 6.0F;  // erfc(6) is 2e-17
  constexpr float kErf[] = {1.1283791F,   -0.37612626F,   0.11283597F,   -0.026854329F,
                            0.005189312F, -0.0008018855F, 7.8824974e-05F};
  constexpr float kLogErfcx[] = {0.00042346373F, -1.1307187F,   0.36915505F,     -0.11120094F,   0.027218664F,
                                 -0.00512635F,   0.0007059169F, -6.6333596e-05F, 3.7755915e-06F, -9.7678544e-08F};
  const Vec t = -minus_magnitude(x) * kHalfRoot;
  const Vec bounded = t < kFarthest ? t : splat(kFarthest);
  const Vec near = 1.0F - t * polynomial(kErf, t * t);
  const Vec far = exp_negative(polynomial(kLogErfcx, bounded) - t * t);
  const Vec tail = 0.5F * (t < 1.0F ? near : far);
  // NaN compares with nothing: the product keeps it. Beyond the range 0 * infinity must not arise.
  const Vec left = t < 13.0F ? x * tail : Vec{};
  return x < Vec{} ? left : x * (1.0F - tail);
}

void swiglu_row(float* gate, const float* up, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(gate + i, silu(load(gate + i)) * load(up + i));
  if (i < count) store_some(gate + i, silu(load_some(gate + i, count - i)) * load_some(up + i, count - i), count - i);
}

void gelu_row(float* x, std::int64_t count) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(x + i, gelu(load(x + i)));
  if (i < count) store_some(x + i, gelu(load_some(x + i, count - i)), count - i);
}

/// The first `count` lanes at element `at` of float32 or bf16 values.
inline void store_as(void* out, bool bf16, std::int64_t at, Vec v, std::int64_t count) {
  if (!bf16) return store_some(static_cast<float*>(out) + at, v, count);
  const HalfVec bits = __builtin_convertvector(round_bits(v) >> 16U, HalfVec);
  std::memcpy(static_cast<std::uint16_t*>(out) + at, &bits, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
}

inline Vec load_up_to(const float* p, std::int64_t count) { return count == kLanes ? load(p) : load_some(p, count); }

void rope_row(const RopeRow& row) {
  const std::int64_t width = row.cos == nullptr ? row.dim : row.dim / 2;
  for (std::int64_t j = 0; j < width; j += kLanes) {
    const std::int64_t count = width - j < kLanes ? width - j : kLanes;
    const Vec a = load_up_to(row.x + j, count);
    if (row.cos == nullptr) {
      store_as(row.out, row.bf16, j, a, count);
      continue;
    }
    const Vec b = load_up_to(row.x + width + j, count);
    const Vec cos = load_up_to(row.cos + j, count);
    const Vec sin = load_up_to(row.sin + j, count);
    store_as(row.out, row.bf16, j, a * cos - b * sin, count);
    store_as(row.out, row.bf16, width + j, b * cos + a * sin, count);
  }
}

template <DType type>
inline void widen_as(const unsigned char* stored, std::int64_t count, float* out) {
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, Stored<type>::load(stored + i * Stored<type>::kSize));
  if (i < count) store_some(out + i, Stored<type>::load(stored + i * Stored<type>::kSize, count - i), count - i);
}

void widen_row(const void* stored, DType dtype, std::int64_t count, float* out) {
  const auto* bytes = static_cast<const unsigned char*>(stored);
  if (dtype == DType::kBF16) return widen_as<DType::kBF16>(bytes, count, out);
  if (dtype == DType::kF16) return widen_as<DType::kF16>(bytes, count, out);
  widen_as<DType::kF32>(bytes, count, out);
}

}  // namespace
}  // namespace purekv
