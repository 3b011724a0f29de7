#pragma once

#include <cstdint>

#include "base/dtype.h"

namespace purekv {

/// Bits of eight bytes of values: `random` ones are drawn, `fixed` ones hold the exponent.
struct BitPattern {
  std::uint64_t random = 0, fixed = 0;
};

/// Word `i` of a stream: one hash of (seed, i), so that any thread may make any word (SplitMix64's finaliser).
[[nodiscard]] constexpr std::uint64_t random_word(std::uint64_t seed, std::uint64_t i, BitPattern pattern) {
  std::uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ULL + seed * 0xD1B54A32D192ED03ULL;
  x = (x ^ (x >> 30U)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27U)) * 0x94D049BB133111EBULL;
  return ((x ^ (x >> 31U)) & pattern.random) | pattern.fixed;
}

/// `exponent`: the power of two that is the least absolute value.
[[nodiscard]] constexpr BitPattern bit_pattern(DType dtype, int exponent) {
  std::uint64_t random = 0;
  std::uint64_t fixed = 0;
  int bits = 0;
  switch (dtype) {
    case DType::kF32:
      random = 0x807FFFFF, fixed = static_cast<std::uint64_t>(exponent + 127) << 23U, bits = 32;
      break;
    case DType::kBF16:
      random = 0x807F, fixed = static_cast<std::uint64_t>(exponent + 127) << 7U, bits = 16;
      break;
    case DType::kF16:
      random = 0x83FF, fixed = static_cast<std::uint64_t>(exponent + 15) << 10U, bits = 16;
      break;
    case DType::kFp8:
      random = 0x87, fixed = static_cast<std::uint64_t>(exponent + 7) << 3U, bits = 8;
      break;
  }
  BitPattern pattern;
  for (int at = 0; at < 64; at += bits) {
    pattern.random |= random << static_cast<unsigned>(at);
    pattern.fixed |= fixed << static_cast<unsigned>(at);
  }
  return pattern;
}

inline constexpr float kTwoPi = 6.283185307F;

/// Two independent uniform values for Box and Muller's normal one: first in (0, 1], second in [0, 1).
struct UniformPair {
  float first = 0, second = 0;
};

[[nodiscard]] constexpr UniformPair uniform_pair(std::uint64_t seed, std::uint64_t i) {
  const std::uint64_t word = random_word(seed, i, {~std::uint64_t{0}, 0});
  constexpr float kStep = 0x1p-24F;
  return {(static_cast<float>(word >> 40U) + 1.0F) * kStep, static_cast<float>((word >> 8U) & 0xFFFFFFU) * kStep};
}

}  // namespace purekv
