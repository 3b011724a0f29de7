#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace purekv {

enum class DType : std::uint8_t { kF32, kBF16, kF16 };

[[nodiscard]] constexpr std::size_t size_of(DType type) { return type == DType::kF32 ? 4 : 2; }

[[nodiscard]] constexpr std::string_view name_of(DType type) {
  return type == DType::kF32 ? "F32" : type == DType::kBF16 ? "BF16" : "F16";
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

[[nodiscard]] constexpr float to_float(float x) { return x; }

/// Element i of an array that may be unaligned (a tensor in a mapped file).
template <class T>
[[nodiscard]] T load_element(const void* data, std::int64_t i) {
  T x;
  std::memcpy(&x, static_cast<const std::byte*>(data) + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return x;
}

}  // namespace purekv
