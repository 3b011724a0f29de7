#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "kernels/linear.h"
#include "support/cuda.h"

namespace purekv {

/// A random linear layer on the device, bf16 or e4m3 with a scale a row, and on the host the values that it stands for.
struct DeviceWeight {
  std::int64_t out, in;
  bool fp8;
  std::vector<float> values, bias, scales;
  Buffer device, device_bias, device_bias16, device_scales;

  DeviceWeight(const Context& context, std::int64_t rows, std::int64_t cols, bool is_fp8, std::mt19937& random,
               float magnitude = 0.05F)
      : out(rows),
        in(cols),
        fp8(is_fp8),
        values(normal_floats(rows * cols, random, magnitude)),
        bias(normal_floats(rows, random)) {
    const std::vector<std::uint16_t> narrow_bias = round_to_bf16(bias);
    if (fp8)
      to_fp8_rows(context);
    else
      device = to_device(context, round_to_bf16(values));
    device_bias = to_device(context, bias);
    device_bias16 = to_device(context, narrow_bias);
  }

  /// fp8: multiplies rows [first, first + count) by a power of two, exactly.
  void scale_rows(const Context& context, std::int64_t first, std::int64_t count, float factor) {
    for (std::int64_t i = first * in; i < (first + count) * in; ++i) values[static_cast<std::size_t>(i)] *= factor;
    for (std::int64_t o = first; o < first + count; ++o) scales[static_cast<std::size_t>(o)] *= factor;
    device_scales = to_device(context, scales);
  }

  [[nodiscard]] LinearOperand operand(bool with_bias) const {
    return {.weight = {device.data(), fp8 ? DType::kFp8 : DType::kBF16, out, in, in},
            .bias = with_bias ? device_bias.as<float>() : nullptr,
            .bias16 = with_bias ? device_bias16.data() : nullptr,
            .scales = device_scales.as<float>()};
  }
  /// For the CPU twin.
  [[nodiscard]] LinearOperand host_operand(bool with_bias) const {
    return {.weight = {values.data(), DType::kF32, out, in, in}, .bias = with_bias ? bias.data() : nullptr};
  }

 private:
  /// Each row by its own scale; `values` become what the device reads.
  void to_fp8_rows(const Context& context) {
    std::vector<Float8> bits;
    for (std::int64_t o = 0; o < out; ++o) {
      const auto row = values.begin() + o * in;
      float most = 0;
      for (std::int64_t i = 0; i < in; ++i) most = std::max(most, std::abs(row[i]));
      const float scale = most / 448.0F;
      scales.push_back(scale);
      for (std::int64_t i = 0; i < in; ++i) {
        bits.push_back(to_fp8(row[i] / scale));
        row[i] = to_float(bits.back()) * scale;
      }
    }
    device = to_device(context, bits);
    device_scales = to_device(context, scales);
  }
};

}  // namespace purekv
