#include <algorithm>
#include <cstddef>

#include "media/resize.h"

namespace purekv {
namespace {

// Pillow keeps 8 bits for the pixel and 2 for overshoot: 22 remain for a weight.
constexpr int kWeightBits = 22;

std::vector<std::int32_t> fixed_weights(const CubicTaps& taps) {
  std::vector<std::int32_t> fixed;
  fixed.reserve(taps.weight.size());
  for (const double w : taps.weight)
    fixed.push_back(static_cast<std::int32_t>((w < 0 ? -0.5 : 0.5) + w * (1 << kWeightBits)));
  return fixed;
}

std::uint8_t round_pixel(std::int32_t sum) { return static_cast<std::uint8_t>(std::clamp(sum >> kWeightBits, 0, 255)); }

/// [rows, in, 3] -> [rows, out, 3]
void resize_columns(const std::uint8_t* in, int rows, int in_width, const CubicTaps& taps, std::uint8_t* out) {
  const std::vector<std::int32_t> weights = fixed_weights(taps);
  const std::size_t out_width = taps.first.size();
  for (int y = 0; y < rows; ++y) {
    const std::uint8_t* line = in + static_cast<std::ptrdiff_t>(y) * in_width * 3;
    for (std::size_t x = 0; x < out_width; ++x) {
      const std::int32_t* weight = weights.data() + x * static_cast<std::size_t>(taps.taps);
      const std::uint8_t* pixel = line + static_cast<std::ptrdiff_t>(taps.first[x]) * 3;
      std::int32_t sum[3] = {1 << (kWeightBits - 1), 1 << (kWeightBits - 1), 1 << (kWeightBits - 1)};
      for (int k = 0; k < taps.count[x]; ++k)
        for (int c = 0; c < 3; ++c) sum[c] += weight[k] * pixel[k * 3 + c];
      for (const std::int32_t channel : sum) *out++ = round_pixel(channel);
    }
  }
}

/// [in, bytes] -> [out, bytes]
void resize_rows(const std::uint8_t* in, std::size_t bytes, const CubicTaps& taps, std::uint8_t* out) {
  const std::vector<std::int32_t> weights = fixed_weights(taps);
  std::vector<std::int32_t> sum(bytes);
  for (std::size_t y = 0; y < taps.first.size(); ++y) {
    std::fill(sum.begin(), sum.end(), 1 << (kWeightBits - 1));
    for (int k = 0; k < taps.count[y]; ++k) {
      const std::int32_t weight = weights[y * static_cast<std::size_t>(taps.taps) + static_cast<std::size_t>(k)];
      const std::uint8_t* line = in + static_cast<std::size_t>(taps.first[y] + k) * bytes;
      for (std::size_t i = 0; i < bytes; ++i) sum[i] += weight * line[i];
    }
    for (const std::int32_t value : sum) *out++ = round_pixel(value);
  }
}

std::size_t bytes_of(FrameSize size) {
  return static_cast<std::size_t>(size.height) * static_cast<std::size_t>(size.width) * 3;
}

}  // namespace

void resize_image(FrameSize in_size, const std::vector<std::uint8_t>& in, FrameSize out_size,
                  std::vector<std::uint8_t>& out) {
  const std::uint8_t* source = in.data();
  std::vector<std::uint8_t> narrow;
  if (in_size.width != out_size.width) {
    narrow.resize(bytes_of({in_size.height, out_size.width}));
    resize_columns(source, in_size.height, in_size.width, cubic_taps(in_size.width, out_size.width), narrow.data());
    source = narrow.data();
  }
  out.resize(bytes_of(out_size));
  if (in_size.height != out_size.height)
    resize_rows(source, static_cast<std::size_t>(out_size.width) * 3, cubic_taps(in_size.height, out_size.height),
                out.data());
  else
    std::copy(source, source + out.size(), out.begin());
}

}  // namespace purekv
