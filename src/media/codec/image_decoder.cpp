#include "media/codec/image_decoder.h"

#include "base/fail.h"
#include "media/file_kind.h"

namespace purekv {
namespace {

// Raw 16-bit RGBA of the most pixels is 134 MB; the rest is room for metadata.
constexpr std::int64_t kMostBytes = 192LL << 20;

/// Little or big endian integers of a TIFF block; 0 beyond its end.
class TiffReader {
 public:
  TiffReader(std::span<const std::uint8_t> data, bool big) : data_(data), big_(big) {}
  [[nodiscard]] std::uint32_t at(std::size_t offset, std::size_t bytes) const {
    if (offset > data_.size() || bytes > data_.size() - offset) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < bytes; ++i) value = value << 8U | data_[offset + (big_ ? i : bytes - 1 - i)];
    return value;
  }

 private:
  std::span<const std::uint8_t> data_;
  bool big_;
};

}  // namespace

int exif_tag_of(std::span<const std::uint8_t> tiff) {
  constexpr std::uint8_t kPrefix[] = {'E', 'x', 'i', 'f', 0, 0};
  if (tiff.size() > sizeof kPrefix && std::equal(std::begin(kPrefix), std::end(kPrefix), tiff.begin()))
    tiff = tiff.subspan(sizeof kPrefix);
  if (tiff.size() < 8 || tiff[0] != tiff[1] || (tiff[0] != 'I' && tiff[0] != 'M')) return 0;
  const TiffReader reader(tiff, tiff[0] == 'M');
  constexpr std::uint32_t kOrientation = 0x0112;
  constexpr std::uint32_t kShort = 3;
  constexpr std::size_t kEntry = 12;
  const std::size_t directory = reader.at(4, 4);
  const std::size_t entries = reader.at(directory, 2);
  for (std::size_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + i * kEntry;
    if (reader.at(entry, 2) != kOrientation || reader.at(entry + 2, 2) != kShort) continue;
    return static_cast<int>(reader.at(entry + 8, 2));
  }
  return 0;
}

std::unique_ptr<ImageDecoder> open_decoder(const EncodedImage& image) {
  std::unique_ptr<ImageDecoder> decoder;
  switch (file_kind(image.bytes)) {
    case FileKind::kJpeg:
      decoder = open_jpeg(image);
      break;
    case FileKind::kPng:
      decoder = open_png(image);
      break;
    case FileKind::kWebp:
      decoder = open_webp(image);
      break;
    case FileKind::kBmp:
      decoder = open_bmp(image);
      break;
    default:
      fail(ErrorKind::kInput, "{}: is an image of a kind that is not read; convert it to png, jpeg, webp or bmp",
           image.path);
  }
  check_source_size(image.path, decoder->size().height, decoder->size().width, kMostSide);
  return decoder;
}

EncodedImage read_image_file(const InputFile& file) {
  if (file.size() > kMostBytes)
    fail(ErrorKind::kInput, "{}: {} bytes, an image takes at most {}; scale it down", file.path(), file.size(),
         kMostBytes);
  EncodedImage image{file.path(), std::vector<std::uint8_t>(static_cast<std::size_t>(file.size()))};
  file.read_exactly(0, image.bytes.data(), image.bytes.size());
  return image;
}

Picture decode_picture(const EncodedImage& image) {
  const auto decoder = open_decoder(image);
  Picture picture{decoder->size(), decoder->decode()};
  const Orientation orientation = exif_orientation(decoder->exif_tag());
  orient(picture.size, orientation, picture.rgb);
  picture.size = oriented(picture.size, orientation);
  return picture;
}

FrameSize picture_size(const EncodedImage& image) {
  const auto decoder = open_decoder(image);
  return oriented(decoder->size(), exif_orientation(decoder->exif_tag()));
}

}  // namespace purekv
