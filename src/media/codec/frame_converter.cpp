#include "media/codec/frame_converter.h"

extern "C" {
#include <libavutil/pixdesc.h>
}

#include <algorithm>

namespace purekv {
namespace {

/// The yuvj formats say full range by their name; swscale wants the plain name and the range.
AVPixelFormat plain_format(int format) {
  switch (format) {
    case AV_PIX_FMT_YUVJ420P:
      return AV_PIX_FMT_YUV420P;
    case AV_PIX_FMT_YUVJ422P:
      return AV_PIX_FMT_YUV422P;
    case AV_PIX_FMT_YUVJ444P:
      return AV_PIX_FMT_YUV444P;
    case AV_PIX_FMT_YUVJ440P:
      return AV_PIX_FMT_YUV440P;
    case AV_PIX_FMT_YUVJ411P:
      return AV_PIX_FMT_YUV411P;
    default:
      return static_cast<AVPixelFormat>(format);
  }
}

bool full_range(const AVFrame& frame) {
  return frame.color_range == AVCOL_RANGE_JPEG || plain_format(frame.format) != frame.format;
}

}  // namespace

bool FrameConverter::configure(const AVFrame& frame) {
  // Accurate rounding and chroma at every pixel: the fast paths repeat chroma, which is wrong by tens of levels at
  // edges.
  constexpr int kFlags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP;
  scaler_ = sws_getCachedContext(scaler_, frame.width, frame.height, plain_format(frame.format), frame.width,
                                 frame.height, AV_PIX_FMT_RGB24, kFlags, nullptr, nullptr, nullptr);
  if (scaler_ == nullptr) return false;
  const int* from = sws_getCoefficients(frame.colorspace);
  constexpr int kUnit = 1 << 16;
  // Refused for RGB sources, which have neither matrix nor range.
  sws_setColorspaceDetails(scaler_, from, full_range(frame) ? 1 : 0, sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, kUnit,
                           kUnit);
  return true;
}

bool FrameConverter::run(const AVFrame& frame, std::vector<std::uint8_t>& rgb) {
  constexpr std::size_t kAlign = 64;
  if (!configure(frame)) return false;
  const auto height = static_cast<std::size_t>(frame.height);
  const std::size_t bytes = static_cast<std::size_t>(frame.width) * 3;
  const std::size_t stride = (bytes + kAlign + kAlign - 1) / kAlign * kAlign;
  padded_.resize(stride * height + kAlign);
  std::uint8_t* const out[4] = {padded_.data(), nullptr, nullptr, nullptr};
  const int strides[4] = {static_cast<int>(stride), 0, 0, 0};
  if (sws_scale(scaler_, frame.data, frame.linesize, 0, frame.height, out, strides) != frame.height) return false;
  rgb.resize(bytes * height);
  for (std::size_t y = 0; y < height; ++y) std::copy_n(padded_.data() + y * stride, bytes, rgb.data() + y * bytes);
  return true;
}

}  // namespace purekv
