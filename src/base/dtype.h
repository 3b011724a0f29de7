#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace purekv {

enum class DType : std::uint8_t { kF32, kBF16, kF16, kFp8 };  ///< kFp8: e4m3, with scales beside it

[[nodiscard]] constexpr std::size_t size_of(DType type) {
  return type == DType::kF32 ? 4 : type == DType::kFp8 ? 1 : 2;
}

[[nodiscard]] constexpr std::string_view name_of(DType type) {
  switch (type) {
    case DType::kF32:
      return "F32";
    case DType::kBF16:
      return "BF16";
    case DType::kF16:
      return "F16";
    case DType::kFp8:
      return "F8_E4M3";
  }
  return "?";
}

/// bfloat16 as stored: the upper half of a float32.
struct BFloat16 {
  std::uint16_t bits = 0;
};

/// IEEE half as stored.
struct Float16 {
  std::uint16_t bits = 0;
};

[[nodiscard]] constexpr float to_float(BFloat16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}

/// Round to nearest, ties to even; NaN stays NaN.
[[nodiscard]] constexpr BFloat16 to_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7FFFFFFFU) > 0x7F800000U) return {static_cast<std::uint16_t>((u >> 16) | 0x40U)};
  return {static_cast<std::uint16_t>((u + 0x7FFFU + ((u >> 16) & 1U)) >> 16)};
}

[[nodiscard]] constexpr float to_float(Float16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000U) << 16;
  const std::uint32_t exponent = (x.bits >> 10) & 0x1FU;
  const std::uint32_t fraction = x.bits & 0x3FFU;
  if (exponent == 0x1FU) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112U) << 23) | (fraction << 13));
  const float small = static_cast<float>(fraction) * 0x1p-24F;
  return sign != 0 ? -small : small;
}

/// e4m3 as stored: no infinity, 0x7F is NaN, 448 the largest.
struct Float8 {
  std::uint8_t bits = 0;
};

[[nodiscard]] constexpr float to_float(Float8 x) {
  const float sign = (x.bits & 0x80U) != 0 ? -1.0F : 1.0F;
  const std::uint32_t exponent = (x.bits >> 3) & 0xFU;
  const std::uint32_t fraction = x.bits & 7U;
  if (exponent == 15 && fraction == 7) return std::bit_cast<float>(0x7FC00000U);
  if (exponent == 0) return sign * static_cast<float>(fraction) * 0x1p-9F;
  return sign * std::bit_cast<float>(((exponent + 120U) << 23) | (fraction << 20));
}

/// Round to nearest, ties to even; beyond 448 becomes 448, NaN stays NaN.
[[nodiscard]] constexpr Float8 to_fp8(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint8_t>((u >> 24) & 0x80U);
  const std::uint32_t magnitude = u & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return {0x7F};
  if (magnitude >= 0x43E00000U) return {static_cast<std::uint8_t>(sign | 0x7EU)};  // 448 and more
  if (magnitude < 0x3C800000U) {                                                   // below 2^-6: steps of 2^-9
    const float steps = std::bit_cast<float>(magnitude) * 0x1p9F;
    auto whole = static_cast<std::uint32_t>(steps);
    const float rest = steps - static_cast<float>(whole);
    whole += rest > 0.5F || (rest == 0.5F && (whole & 1U) != 0) ? 1U : 0U;
    return {static_cast<std::uint8_t>(sign | whole)};
  }
  const std::uint32_t rounded = magnitude + 0x7FFFFU + ((magnitude >> 20) & 1U);
  return {static_cast<std::uint8_t>(sign | ((rounded >> 20) - (120U << 3)))};
}

[[nodiscard]] constexpr float to_float(float x) { return x; }

/// Element i of an array that may be unaligned (a tensor in a mapped file).
template <class T>
[[nodiscard]] T load_element(const void* data, std::int64_t i) {
  T x;
  std::memcpy(&x, static_cast<const std::byte*>(data) + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return x;
}

}  // namespace purekv
