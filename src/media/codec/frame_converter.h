#pragma once

extern "C" {
#include <libswscale/swscale.h>
}

#include <cstdint>
#include <vector>

#include "media/codec/video_file.h"

namespace purekv {

/// Decoded frames to RGB through libswscale, by each frame's own matrix and range; untagged is BT.601 limited.
class FrameConverter {
 public:
  FrameConverter() = default;
  FrameConverter(const FrameConverter&) = delete;
  FrameConverter& operator=(const FrameConverter&) = delete;
  ~FrameConverter() { sws_freeContext(scaler_); }
  /// Writes uint8 RGB [frame.height, frame.width, 3] into `rgb` (resized to fit). False where libswscale cannot.
  [[nodiscard]] bool run(const AVFrame& frame, std::vector<std::uint8_t>& rgb);

 private:
  bool configure(const AVFrame& frame);

  SwsContext* scaler_ = nullptr;
  std::vector<std::uint8_t> padded_;  ///< rows of aligned length, as libswscale's fast paths write them
};

}  // namespace purekv
