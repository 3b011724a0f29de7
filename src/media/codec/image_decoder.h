#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "media/clip_plan.h"
#include "media/input_file.h"
#include "media/orientation.h"

namespace purekv {

/// The bytes of an image file, and the name that errors show.
struct EncodedImage {
  std::string path;
  std::vector<std::uint8_t> bytes;
};

/// One image, its header read. The pixels are what Pillow gives for "RGB": an RGBA image on white first, every other
/// mode as its convert does.
class ImageDecoder {
 public:
  virtual ~ImageDecoder() = default;
  [[nodiscard]] virtual FrameSize size() const = 0;  ///< as stored
  /// uint8 RGB [height, width, 3] as stored. Call once. Throws Error(kInput) for damage.
  virtual std::vector<std::uint8_t> decode() = 0;
  /// EXIF's tag, 1 to 8, or 0; complete after decode() only, since it may follow the pixels.
  [[nodiscard]] virtual int exif_tag() const = 0;
};

/// Reads the header of a jpeg, png, webp or bmp file. `image` must outlive the decoder. Throws Error(kInput) for what
/// is damaged, of another kind, or too large (checked before a pixel is decoded).
std::unique_ptr<ImageDecoder> open_decoder(const EncodedImage& image);
std::unique_ptr<ImageDecoder> open_jpeg(const EncodedImage& image);
std::unique_ptr<ImageDecoder> open_png(const EncodedImage& image);
std::unique_ptr<ImageDecoder> open_webp(const EncodedImage& image);
std::unique_ptr<ImageDecoder> open_bmp(const EncodedImage& image);

/// The whole file; Error(kInput) where it is longer than an image can be.
EncodedImage read_image_file(const InputFile& file);

/// An image as people see it, uint8 RGB [size.height, size.width, 3].
struct Picture {
  FrameSize size;
  std::vector<std::uint8_t> rgb;
};
Picture decode_picture(const EncodedImage& image);

/// The size that decode_picture gives, from the header alone (a png's orientation may follow its pixels).
FrameSize picture_size(const EncodedImage& image);

/// Orientation of a TIFF block as EXIF has it; 0 where it has none.
int exif_tag_of(std::span<const std::uint8_t> tiff);

/// Channel `c` with opacity `alpha` on white, rounded as Pillow's paste does.
[[nodiscard]] inline std::uint8_t on_white(std::uint8_t c, std::uint8_t alpha) {
  const unsigned x = c * static_cast<unsigned>(alpha) + 255U * (255U - alpha) + 128U;
  return static_cast<std::uint8_t>(((x >> 8U) + x) >> 8U);
}

}  // namespace purekv
