#include <png.h>

#include <algorithm>
#include <array>
#include <csetjmp>
#include <cstring>
#include <span>

#include "base/fail.h"
#include "media/codec/image_decoder.h"

namespace purekv {
namespace {

constexpr png_alloc_size_t kMostChunk = 8U << 20U;  // of text or profile once unpacked

struct PngInput {
  std::span<const std::uint8_t> left;
  char message[128] = {};
};

extern "C" void read_png_bytes(png_structp png, png_bytep out, std::size_t bytes) {
  auto* input = static_cast<PngInput*>(png_get_io_ptr(png));
  if (bytes > input->left.size()) png_error(png, "the file ends");
  std::memcpy(out, input->left.data(), bytes);
  input->left = input->left.subspan(bytes);
}

extern "C" void escape_png(png_structp png, png_const_charp message) {
  auto* input = static_cast<PngInput*>(png_get_error_ptr(png));
  std::strncpy(input->message, message, sizeof input->message - 1);
  png_longjmp(png, 1);
}

extern "C" void ignore_png(png_structp /*png*/, png_const_charp /*message*/) {}

class PngDecoder : public ImageDecoder {
 public:
  explicit PngDecoder(const EncodedImage& image) : path_(image.path), input_{.left = image.bytes} {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, &input_, &escape_png, &ignore_png);
    if (png_ != nullptr) info_ = png_create_info_struct(png_);
    if (info_ == nullptr) throw std::bad_alloc();
    if (!read_header()) refuse();
  }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;
  ~PngDecoder() override { png_destroy_read_struct(&png_, &info_, nullptr); }

  [[nodiscard]] FrameSize size() const override { return size_; }

  [[nodiscard]] int exif_tag() const override {
    png_uint_32 bytes = 0;
    png_bytep data = nullptr;
    if (png_get_eXIf_1(png_, info_, &bytes, &data) == 0) return 0;
    return exif_tag_of({data, bytes});
  }

  std::vector<std::uint8_t> decode() override {
    const auto height = static_cast<std::size_t>(size_.height);
    raw_.resize(line_bytes_ * height);
    rows_.resize(height);
    for (std::size_t y = 0; y < height; ++y) rows_[y] = raw_.data() + y * line_bytes_;
    if (!read_rows()) refuse();
    std::vector<std::uint8_t> rgb(height * static_cast<std::size_t>(size_.width) * 3);
    convert(rgb.data());
    return rgb;
  }

 private:
  // The two functions with setjmp hold nothing that a jump would leak.
  bool read_header() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_set_read_fn(png_, &input_, &read_png_bytes);
    png_set_user_limits(png_, kMostSide, kMostSide);
    png_set_chunk_malloc_max(png_, kMostChunk);
    png_read_info(png_, info_);
    size_ = {static_cast<int>(png_get_image_height(png_, info_)), static_cast<int>(png_get_image_width(png_, info_))};
    color_ = png_get_color_type(png_, info_);
    depth_ = png_get_bit_depth(png_, info_);
    if (color_ == PNG_COLOR_TYPE_GRAY && depth_ < 8) png_set_expand_gray_1_2_4_to_8(png_);
    if (color_ == PNG_COLOR_TYPE_PALETTE) png_set_packing(png_);
    // Pillow keeps 16 bits of plain gray only (mode I;16); elsewhere it takes the high byte.
    if (depth_ == 16 && color_ != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png_);
    png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    line_bytes_ = png_get_rowbytes(png_, info_);
    return true;
  }
  bool read_rows() {
    if (setjmp(png_jmpbuf(png_)) != 0) return false;
    png_read_image(png_, rows_.data());
    png_read_end(png_, info_);
    return true;
  }
  [[noreturn]] void refuse() {
    png_destroy_read_struct(&png_, &info_, nullptr);  // the destructor of a half-built object does not run
    const std::string message = input_.message;
    fail(ErrorKind::kInput, "{}: {}; the png file is damaged or cut short, save it again", path_, message);
  }

  void convert(std::uint8_t* out) const {
    const std::size_t pixels = static_cast<std::size_t>(size_.height) * static_cast<std::size_t>(size_.width);
    const std::uint8_t* in = raw_.data();
    const auto palette = color_ == PNG_COLOR_TYPE_PALETTE ? read_palette() : std::array<std::uint8_t, 768>{};
    for (std::size_t i = 0; i < pixels; ++i, out += 3) {
      switch (color_) {
        case PNG_COLOR_TYPE_GRAY:
          // Pillow clips 16 bits to 8 here, it does not scale them.
          if (depth_ == 16) {
            std::fill_n(out, 3, in[0] != 0 ? std::uint8_t{255} : in[1]);
            in += 2;
          } else {
            std::fill_n(out, 3, *in++);
          }
          break;
        case PNG_COLOR_TYPE_GRAY_ALPHA:
          // Pillow opens it as RGBA where it has 16 bits, and as LA, whose alpha is dropped, where it has 8.
          std::fill_n(out, 3, depth_ == 16 ? on_white(in[0], in[1]) : in[0]);
          in += 2;
          break;
        case PNG_COLOR_TYPE_PALETTE:
          std::copy_n(palette.data() + 3UL * *in++, 3, out);
          break;
        case PNG_COLOR_TYPE_RGB_ALPHA:
          for (std::size_t c = 0; c < 3; ++c) out[c] = on_white(in[c], in[3]);
          in += 4;
          break;
        default:
          std::copy_n(in, 3, out);
          in += 3;
      }
    }
  }

  /// 256 colours; those that the file lacks are gray, as in Pillow.
  [[nodiscard]] std::array<std::uint8_t, 768> read_palette() const {
    std::array<std::uint8_t, 768> colors{};
    for (std::size_t i = 0; i < colors.size(); ++i) colors[i] = static_cast<std::uint8_t>(i / 3);
    png_colorp entries = nullptr;
    int count = 0;
    png_get_PLTE(png_, info_, &entries, &count);
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
      colors[3 * i] = entries[i].red;
      colors[3 * i + 1] = entries[i].green;
      colors[3 * i + 2] = entries[i].blue;
    }
    return colors;
  }

  std::string path_;
  PngInput input_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  FrameSize size_;
  int color_ = 0, depth_ = 0;
  std::size_t line_bytes_ = 0;
  std::vector<std::uint8_t> raw_;
  std::vector<png_bytep> rows_;
};

}  // namespace

std::unique_ptr<ImageDecoder> open_png(const EncodedImage& image) { return std::make_unique<PngDecoder>(image); }

}  // namespace purekv
