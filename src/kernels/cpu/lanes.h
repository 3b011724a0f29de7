#pragma once

// Stored types at the width of the including file: loads that widen, rounding to bf16, transposition. Internal linkage
// throughout (cpu/simd.h).

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <utility>

#include "base/dtype.h"
#include "kernels/cpu/simd.h"

namespace purekv {
namespace {  // NOLINT(google-build-namespaces): one copy a translation unit is the point

using UintVec = std::uint32_t __attribute__((vector_size(kLanes * sizeof(float))));
using HalfVec = std::uint16_t __attribute__((vector_size(kLanes * sizeof(std::uint16_t))));

template <class To, class From>
inline To bits_as(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

/// Which stored type a loop is compiled for.
template <DType type>
struct Stored {
  static constexpr std::int64_t kSize = type == DType::kF32 ? 4 : 2;

  /// kLanes values from any byte address.
  static Vec load(const unsigned char* p) {
    if constexpr (type == DType::kF32) {
      return bits_as<Vec>(raw<UintVec>(p));
    } else if constexpr (type == DType::kBF16) {
      return bits_as<Vec>(__builtin_convertvector(raw<HalfVec>(p), UintVec) << 16U);
    } else {
#if defined(__AVX512F__)
      return bits_as<Vec>(_mm512_maskz_cvtph_ps(0xFFFFU, bits_as<__m256i>(raw<HalfVec>(p))));
#elif defined(__AVX2__)
      return bits_as<Vec>(_mm256_cvtph_ps(bits_as<__m128i>(raw<HalfVec>(p))));
#else
      const UintVec bits = __builtin_convertvector(raw<HalfVec>(p), UintVec);
      // The exponent is moved to float32's bias by a product, which also normalises the small ones.
      UintVec wide = bits_as<UintVec>(bits_as<Vec>((bits & 0x7FFFU) << 13U) * 0x1p112F);
      wide |= bits_as<UintVec>((bits & 0x7C00U) == 0x7C00U) & 0x7F800000U;
      return bits_as<Vec>(wide | ((bits & 0x8000U) << 16U));
#endif
    }
  }

  /// The first `count` < kLanes values, zeros after them; reads nothing past them.
  static Vec load(const unsigned char* p, std::int64_t count) {
    unsigned char bytes[kLanes * kSize] = {};
    std::memcpy(bytes, p, static_cast<std::size_t>(count * kSize));
    return load(bytes);
  }

 private:
  template <class V>
  static V raw(const unsigned char* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
};

[[maybe_unused]] inline Vec load_some(const float* p, std::int64_t count) {
  return Stored<DType::kF32>::load(reinterpret_cast<const unsigned char*>(p), count);
}

[[maybe_unused]] inline void store_some(float* p, Vec v, std::int64_t count) {
  std::memcpy(p, &v, static_cast<std::size_t>(count) * sizeof(float));
}

/// The nearest bf16 (ties to even) in the upper halves, zeros below; NaN stays NaN.
[[maybe_unused]] inline UintVec round_bits(Vec x) {
  const auto bits = bits_as<UintVec>(x);
  const UintVec rounded = bits + 0x7FFFU + ((bits >> 16U) & 1U);
  const UintVec quiet = bits | 0x400000U;
  const auto is_nan = bits_as<UintVec>(x != x);
  return ((is_nan & quiet) | (~is_nan & rounded)) & 0xFFFF0000U;
}

template <int... L>
inline Vec low_singles(Vec a, Vec b, std::integer_sequence<int, L...> /*lanes*/) {
  return __builtin_shufflevector(a, b, ((L & ~3) + (L & 3) / 2 + (L & 1) * kLanes)...);
}
template <int... L>
inline Vec high_singles(Vec a, Vec b, std::integer_sequence<int, L...> /*lanes*/) {
  return __builtin_shufflevector(a, b, ((L & ~3) + 2 + (L & 3) / 2 + (L & 1) * kLanes)...);
}
template <int... L>
inline Vec low_pairs(Vec a, Vec b, std::integer_sequence<int, L...> /*lanes*/) {
  return __builtin_shufflevector(a, b, ((L & ~3) + (L & 1) + ((L & 2) != 0 ? kLanes : 0))...);
}
template <int... L>
inline Vec high_pairs(Vec a, Vec b, std::integer_sequence<int, L...> /*lanes*/) {
  return __builtin_shufflevector(a, b, ((L & ~3) + 2 + (L & 1) + ((L & 2) != 0 ? kLanes : 0))...);
}
/// Of every 2 * S lanes: the first S of a, then the first S of b; with `upper` the second S of each.
template <int S, bool upper, int... L>
inline Vec blocks(Vec a, Vec b, std::integer_sequence<int, L...> /*lanes*/) {
  return __builtin_shufflevector(a, b,
                                 ((L & ~(2 * S - 1)) + (L & (S - 1)) + (upper ? S : 0) + (L & S ? kLanes : 0))...);
}

template <int S>
inline void exchange_blocks(Vec (&v)[kLanes]) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
  for (int i = 0; i < kLanes; ++i) {
    if ((i & S) != 0) continue;
    const Vec a = v[i];
    const Vec b = v[i + S];
    v[i] = blocks<S, false>(a, b, lanes);
    v[i + S] = blocks<S, true>(a, b, lanes);
  }
}

/// v[i] lane j <-> v[j] lane i, of 32-bit lanes.
[[maybe_unused]] inline void transpose(Vec (&v)[kLanes]) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
  for (int i = 0; i < kLanes; i += 4) {
    const Vec ab_low = low_singles(v[i], v[i + 1], lanes);
    const Vec ab_high = high_singles(v[i], v[i + 1], lanes);
    const Vec cd_low = low_singles(v[i + 2], v[i + 3], lanes);
    const Vec cd_high = high_singles(v[i + 2], v[i + 3], lanes);
    v[i] = low_pairs(ab_low, cd_low, lanes);
    v[i + 1] = high_pairs(ab_low, cd_low, lanes);
    v[i + 2] = low_pairs(ab_high, cd_high, lanes);
    v[i + 3] = high_pairs(ab_high, cd_high, lanes);
  }
  if constexpr (kLanes >= 8) exchange_blocks<4>(v);
  if constexpr (kLanes >= 16) exchange_blocks<8>(v);
}

}  // namespace
}  // namespace purekv
