#include "media/resize.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace purekv {
namespace {

double cubic(double x) {
  constexpr double kA = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((kA + 2.0) * x - (kA + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * kA;
  return 0.0;
}

}  // namespace

CubicTaps cubic_taps(int in, int out) {
  const double scale = static_cast<double>(in) / out;
  const double stretch = std::max(scale, 1.0);  // shrinking widens the kernel: that is the antialiasing
  const double support = 2.0 * stretch;
  CubicTaps result;
  result.taps = static_cast<int>(std::ceil(support)) * 2 + 1;
  result.weight.resize(static_cast<std::size_t>(out) * static_cast<std::size_t>(result.taps));
  for (int i = 0; i < out; ++i) {
    const double center = (i + 0.5) * scale;
    const int first = std::max(0, static_cast<int>(std::floor(center - support + 0.5)));
    const int count = std::min(in, static_cast<int>(std::floor(center + support + 0.5))) - first;
    double* weight = result.weight.data() + static_cast<std::ptrdiff_t>(i) * result.taps;
    double sum = 0;
    for (int k = 0; k < count; ++k) {
      weight[k] = cubic((k + first - center + 0.5) * (1.0 / stretch));
      sum += weight[k];
    }
    for (int k = 0; k < count; ++k)
      if (sum != 0.0) weight[k] /= sum;
    result.first.push_back(first);
    result.count.push_back(count);
  }
  return result;
}

FrameResizer::FrameResizer(FrameSize in, FrameSize out)
    : in_(in),
      out_(out),
      rows_(cubic_taps(in.height, out.height)),
      columns_(cubic_taps(in.width, out.width)),
      column_weight_(columns_.weight.begin(), columns_.weight.end()),
      sum_(static_cast<std::size_t>(in.width) * 3),
      wide_(static_cast<std::size_t>(in.width) * 4) {}

void FrameResizer::run(const std::uint8_t* in, std::uint8_t* out) {
  // Rows first: one pass over the input's bytes, and no picture in between.
  for (int y = 0; y < out_.height; ++y) {
    blend_rows(in, y);
    blend_columns(out + static_cast<std::ptrdiff_t>(y) * out_.width * 3);
  }
}

void FrameResizer::blend_rows(const std::uint8_t* in, int y) {
  const std::size_t bytes = sum_.size();
  const auto row = static_cast<std::size_t>(y);
  const double* weights = rows_.weight.data() + static_cast<std::ptrdiff_t>(y) * rows_.taps;
  float* sum = sum_.data();
  std::fill(sum_.begin(), sum_.end(), 0.0F);
  for (int k = 0; k < rows_.count[row]; ++k) {
    const auto weight = static_cast<float>(weights[k]);
    const std::uint8_t* line = in + static_cast<std::size_t>(rows_.first[row] + k) * bytes;
    for (std::size_t i = 0; i < bytes; ++i) sum[i] += weight * static_cast<float>(line[i]);
  }
  for (std::size_t x = 0; x < static_cast<std::size_t>(in_.width); ++x)
    for (std::size_t c = 0; c < 3; ++c) wide_[x * 4 + c] = sum[x * 3 + c];
}

void FrameResizer::blend_columns(std::uint8_t* out) const {
  for (std::size_t x = 0; x < static_cast<std::size_t>(out_.width); ++x) {
    const float* weight = column_weight_.data() + x * static_cast<std::size_t>(columns_.taps);
    const float* pixel = wide_.data() + static_cast<std::ptrdiff_t>(columns_.first[x]) * 4;
    float sum[4] = {};
    for (int k = 0; k < columns_.count[x]; ++k)
      for (int c = 0; c < 4; ++c) sum[c] += weight[k] * pixel[k * 4 + c];
    for (int c = 0; c < 3; ++c)
      out[x * 3 + static_cast<std::size_t>(c)] =
          static_cast<std::uint8_t>(std::nearbyint(std::clamp(sum[c], 0.0F, 255.0F)));
  }
}

}  // namespace purekv
