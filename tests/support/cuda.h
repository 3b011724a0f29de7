#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "base/dtype.h"
#include "device/open_device.h"
#include "device/transfer.h"

namespace purekv {

/// Tests that need a GPU; without one they are skipped by name.
class CudaTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto why = why_no_cuda()) GTEST_SKIP() << *why;
    context_ = {.backend = Backend::kCuda, .threads = 1, .compute = DType::kBF16, .cuda = open_cuda_device()};
  }
  Context context_;
  Context cpu_{.threads = 4};
};

/// Rounds to bf16 in place, so that the CPU twin sees what the GPU sees; returns the bits.
inline std::vector<std::uint16_t> round_to_bf16(std::vector<float>& values) {
  std::vector<std::uint16_t> bits;
  bits.reserve(values.size());
  for (float& x : values) {
    bits.push_back(to_bf16(x).bits);
    x = to_float(BFloat16{bits.back()});
  }
  return bits;
}

inline std::vector<float> widen(const std::vector<std::uint16_t>& bits) {
  std::vector<float> out;
  out.reserve(bits.size());
  for (const std::uint16_t b : bits) out.push_back(to_float(BFloat16{b}));
  return out;
}

/// Squared error over squared reference; NaN and infinity never pass as small.
inline double nmse(const std::vector<float>& out, const std::vector<float>& reference) {
  double error = 0;
  double power = 0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    const double d = static_cast<double>(out[i]) - static_cast<double>(reference[i]);
    error += d * d;
    power += static_cast<double>(reference[i]) * static_cast<double>(reference[i]);
  }
  const double result = error / (power > 0 ? power : 1);
  return std::isfinite(result) ? result : 1e30;
}

/// A device buffer of NaN: what an operation leaves unwritten shows.
inline Buffer poisoned(const Context& context, std::int64_t bytes) {
  return to_device(context, std::vector<std::uint8_t>(static_cast<std::size_t>(bytes), 0xFF));
}

inline std::vector<float> normal_floats(std::int64_t count, std::mt19937& random, float scale = 1) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(static_cast<std::size_t>(count));
  for (float& x : out) x = normal(random);
  return out;
}

}  // namespace purekv
