#pragma once

#include <cstdint>
#include <vector>

#include "media/clip_plan.h"

namespace purekv {

/// Antialiased cubic (a = -0.5) along one axis: output i is the sum over k < count[i] of
/// weight[i * taps + k] * input[first[i] + k]; the weights of an output sum to 1.
struct CubicTaps {
  int taps = 0;  ///< the most that one output reads
  std::vector<int> first, count;
  std::vector<double> weight;
};

CubicTaps cubic_taps(int in, int out);

/// Resizes uint8 RGB [height, width, 3] frames of one size as torch does for bicubic, antialias=True: in float32,
/// clamped and rounded once.
class FrameResizer {
 public:
  FrameResizer(FrameSize in, FrameSize out);
  /// Reads in.height * in.width * 3 bytes, writes out.height * out.width * 3.
  void run(const std::uint8_t* in, std::uint8_t* out);
  [[nodiscard]] FrameSize in() const { return in_; }

 private:
  void blend_rows(const std::uint8_t* in, int y);
  void blend_columns(std::uint8_t* out) const;

  FrameSize in_, out_;
  CubicTaps rows_, columns_;
  std::vector<float> column_weight_;
  std::vector<float> sum_;   ///< one blended row [in width][3]
  std::vector<float> wide_;  ///< the same, [in width][4]: a pixel is one vector
};

/// Resizes uint8 RGB as Pillow's BICUBIC does: fixed point, horizontal then vertical, 8 bits in between.
void resize_image(FrameSize in_size, const std::vector<std::uint8_t>& in, FrameSize out_size,
                  std::vector<std::uint8_t>& out);

}  // namespace purekv
