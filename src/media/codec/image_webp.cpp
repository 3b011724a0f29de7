#include <webp/decode.h>

#include <algorithm>
#include <string_view>

#include "base/fail.h"
#include "media/codec/image_decoder.h"

namespace purekv {
namespace {

/// The body of the first RIFF chunk called `name`; empty where there is none.
std::span<const std::uint8_t> find_chunk(std::span<const std::uint8_t> bytes, std::string_view name) {
  std::size_t at = 12;
  while (bytes.size() >= 8 && at <= bytes.size() - 8) {
    std::size_t size = 0;
    for (std::size_t i = 4; i-- > 0;) size = size << 8U | bytes[at + 4 + i];
    if (size > bytes.size() - at - 8) return {};
    if (std::equal(name.begin(), name.end(), bytes.begin() + static_cast<std::ptrdiff_t>(at)))
      return bytes.subspan(at + 8, size);
    at += 8 + size + size % 2;
  }
  return {};
}

class WebpDecoder : public ImageDecoder {
 public:
  explicit WebpDecoder(const EncodedImage& image) : image_(image) {
    if (WebPGetFeatures(image.bytes.data(), image.bytes.size(), &features_) != VP8_STATUS_OK) refuse();
    if (features_.has_animation != 0)
      fail(ErrorKind::kInput, "{}: is an animated webp, which is not read; convert it to a video", image.path);
  }

  [[nodiscard]] FrameSize size() const override { return {features_.height, features_.width}; }
  [[nodiscard]] int exif_tag() const override { return exif_tag_of(find_chunk(image_.bytes, "EXIF")); }

  std::vector<std::uint8_t> decode() override {
    const bool alpha = features_.has_alpha != 0;
    const std::size_t pixels = static_cast<std::size_t>(features_.width) * static_cast<std::size_t>(features_.height);
    std::vector<std::uint8_t> raw(pixels * (alpha ? 4 : 3));
    const int stride = features_.width * (alpha ? 4 : 3);
    const std::vector<std::uint8_t>& bytes = image_.bytes;
    const auto* done = alpha ? WebPDecodeRGBAInto(bytes.data(), bytes.size(), raw.data(), raw.size(), stride)
                             : WebPDecodeRGBInto(bytes.data(), bytes.size(), raw.data(), raw.size(), stride);
    if (done == nullptr) refuse();
    if (!alpha) return raw;
    std::vector<std::uint8_t> rgb(pixels * 3);
    for (std::size_t i = 0; i < pixels; ++i)
      for (std::size_t c = 0; c < 3; ++c) rgb[i * 3 + c] = on_white(raw[i * 4 + c], raw[i * 4 + 3]);
    return rgb;
  }

 private:
  [[noreturn]] void refuse() const {
    fail(ErrorKind::kInput, "{}: the webp file is damaged or cut short; save it again", image_.path);
  }

  const EncodedImage& image_;
  WebPBitstreamFeatures features_ = {};
};

}  // namespace

std::unique_ptr<ImageDecoder> open_webp(const EncodedImage& image) { return std::make_unique<WebpDecoder>(image); }

}  // namespace purekv
