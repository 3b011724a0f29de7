#include <algorithm>
#include <array>
#include <bit>

#include "base/fail.h"
#include "media/codec/bmp_runs.h"
#include "media/codec/image_decoder.h"

namespace purekv {
namespace {

constexpr std::size_t kFileHeader = 14, kCoreHeader = 12, kInfoHeader = 40;
enum Compression : std::uint32_t { kRaw = 0, kRle8 = 1, kRle4 = 2, kBitFields = 3 };

/// One channel of a pixel word, stretched to 8 bits as Pillow does: x * 255 / most.
struct Field {
  std::uint32_t mask = 0;
  [[nodiscard]] std::uint8_t of(std::uint32_t pixel) const {
    if (mask == 0) return 0;
    const int shift = std::countr_zero(mask);
    return static_cast<std::uint8_t>(static_cast<std::uint64_t>((pixel & mask) >> shift) * 255U / (mask >> shift));
  }
};

class BmpDecoder : public ImageDecoder {
 public:
  explicit BmpDecoder(const EncodedImage& image) : path_(image.path), bytes_(image.bytes) {
    read_header();
    read_fields();
    if (bits_ <= 8) read_palette();
  }

  [[nodiscard]] FrameSize size() const override { return {height_, width_}; }
  [[nodiscard]] int exif_tag() const override { return 0; }

  std::vector<std::uint8_t> decode() override {
    const auto width = static_cast<std::size_t>(width_);
    const auto height = static_cast<std::size_t>(height_);
    std::vector<std::uint8_t> rgb(width * height * 3);
    const std::vector<std::uint8_t> unpacked = unpack_runs();
    const bool runs = !unpacked.empty();
    const std::span<const std::uint8_t> data = runs ? std::span(unpacked) : bytes_.subspan(data_at_);
    const std::size_t used = runs ? width : (width * static_cast<std::size_t>(bits_) + 7) / 8;
    const std::size_t stride = runs ? width : (used + 3) / 4 * 4;
    if (stride * (height - 1) + used > data.size())
      refuse(fmt::format("{} bytes of pixels for {}x{} of {} bits", data.size(), width_, height_, bits_));
    for (std::size_t y = 0; y < height; ++y) {
      std::uint8_t* out = rgb.data() + (top_down_ ? y : height - 1 - y) * width * 3;
      for (std::size_t x = 0; x < width; ++x) write_pixel(data.data() + y * stride, x, runs ? 8 : bits_, out + x * 3);
    }
    return rgb;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorKind::kInput, "{}: {}; the bmp file is damaged or of a rare kind, save it as png", path_, what);
  }

  /// A little-endian integer.
  [[nodiscard]] std::uint32_t at(std::size_t offset, std::size_t count) const {
    if (offset + count > bytes_.size()) refuse("the header ends early");
    std::uint32_t value = 0;
    for (std::size_t i = count; i-- > 0;) value = value << 8U | bytes_[offset + i];
    return value;
  }

  void read_header() {
    data_at_ = at(10, 4);
    header_ = at(kFileHeader, 4);
    std::int64_t height = 0;
    if (header_ == kCoreHeader) {
      width_ = static_cast<int>(at(18, 2));
      height = at(20, 2);
      bits_ = static_cast<int>(at(24, 2));
    } else if (header_ >= kInfoHeader) {
      width_ = static_cast<std::int32_t>(at(18, 4));
      height = static_cast<std::int32_t>(at(22, 4));
      bits_ = static_cast<int>(at(28, 2));
      compression_ = at(30, 4);
      colors_ = at(46, 4);
    } else {
      refuse(fmt::format("a header of {} bytes", header_));
    }
    top_down_ = height < 0;
    check_source_size(path_, std::abs(height), width_, kMostSide);
    height_ = static_cast<int>(std::abs(height));
    if (data_at_ >= bytes_.size()) refuse(fmt::format("pixels at byte {} of {}", data_at_, bytes_.size()));
    if (std::find(kBits.begin(), kBits.end(), bits_) == kBits.end()) refuse(fmt::format("{} bits a pixel", bits_));
    const bool fits = compression_ == kRaw || (compression_ == kRle8 && bits_ == 8) ||
                      (compression_ == kRle4 && bits_ == 4) || (compression_ == kBitFields && bits_ >= 16);
    if (!fits) refuse(fmt::format("compression {} of {} bits a pixel", compression_, bits_));
  }

  void read_fields() {
    if (bits_ == 16) fields_ = {{{0x7C00}, {0x3E0}, {0x1F}, {0}}};
    if (compression_ != kBitFields) return;
    // An info header has the masks behind it, later ones within: at the same place. Only the latter have alpha.
    constexpr std::size_t kMasks = kFileHeader + kInfoHeader;
    constexpr std::size_t kWithAlpha = 56;
    const std::size_t count = header_ >= kWithAlpha ? 4 : 3;
    for (std::size_t i = 0; i < count; ++i) fields_[i].mask = at(kMasks + i * 4, 4);
    for (std::size_t i = 0; i < 3; ++i)
      if (fields_[i].mask == 0) refuse("a channel without bits");
  }

  /// Colours that the file lacks are gray, as in Pillow.
  void read_palette() {
    for (std::size_t i = 0; i < palette_.size(); ++i) palette_[i] = static_cast<std::uint8_t>(i / 3);
    const std::size_t entry = header_ == kCoreHeader ? 3 : 4;
    const std::size_t begin = kFileHeader + header_;
    std::size_t count = std::size_t{1} << static_cast<unsigned>(bits_);
    if (colors_ != 0) count = std::min<std::size_t>(count, colors_);
    if (data_at_ > begin) count = std::min(count, (data_at_ - begin) / entry);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t c = 0; c < 3; ++c)
        palette_[i * 3 + c] = static_cast<std::uint8_t>(at(begin + i * entry + 2 - c, 1));
  }

  [[nodiscard]] std::vector<std::uint8_t> unpack_runs() const {
    if (compression_ != kRle8 && compression_ != kRle4) return {};
    return unpack_bmp_runs(bytes_.subspan(data_at_), {height_, width_}, compression_ == kRle4);
  }

  void write_pixel(const std::uint8_t* line, std::size_t x, int bits, std::uint8_t* out) const {
    if (bits <= 8) {
      const auto per_byte = static_cast<std::size_t>(8 / bits);
      const auto shift = static_cast<unsigned>(8 - bits * static_cast<int>(x % per_byte + 1));
      const unsigned index =
          static_cast<unsigned>(line[x / per_byte] >> shift) & ((1U << static_cast<unsigned>(bits)) - 1U);
      std::copy_n(palette_.data() + 3UL * index, 3, out);
      return;
    }
    const std::size_t count = static_cast<std::size_t>(bits) / 8;
    std::uint32_t pixel = 0;
    for (std::size_t i = count; i-- > 0;) pixel = pixel << 8U | line[x * count + i];
    for (std::size_t c = 0; c < 3; ++c) {
      out[c] = fields_[c].of(pixel);
      if (fields_[3].mask != 0) out[c] = on_white(out[c], fields_[3].of(pixel));
    }
  }

  static constexpr std::array kBits = {1, 4, 8, 16, 24, 32};

  const std::string& path_;
  std::span<const std::uint8_t> bytes_;
  std::size_t header_ = 0, data_at_ = 0;
  int width_ = 0, height_ = 0, bits_ = 0;
  bool top_down_ = false;
  std::uint32_t compression_ = kRaw, colors_ = 0;
  std::array<Field, 4> fields_ = {{{0xFF0000}, {0xFF00}, {0xFF}, {0}}};
  std::array<std::uint8_t, 768> palette_{};
};

}  // namespace

std::unique_ptr<ImageDecoder> open_bmp(const EncodedImage& image) { return std::make_unique<BmpDecoder>(image); }

}  // namespace purekv
