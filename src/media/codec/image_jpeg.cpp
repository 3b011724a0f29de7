#include <csetjmp>
#include <cstdio>
// jpeglib.h needs what stdio.h declares.
#include <jerror.h>
#include <jpeglib.h>

#include <algorithm>

#include "base/fail.h"
#include "media/codec/image_decoder.h"

namespace purekv {
namespace {

// A progressive file may refine its coefficients for ever; encoders write about ten scans.
constexpr int kMostScans = 100;

struct JpegErrors {
  jpeg_error_mgr base;
  std::jmp_buf escape;
  char message[JMSG_LENGTH_MAX];
};

/// libjpeg reports by calling back; the only way out of its frames is a jump.
extern "C" void escape_jpeg(j_common_ptr jpeg) {
  auto* errors = reinterpret_cast<JpegErrors*>(jpeg->err);
  (*jpeg->err->format_message)(jpeg, errors->message);
  std::longjmp(errors->escape, 1);
}

/// Warnings that mean missing or false pixels end the decoding; the others are about metadata.
extern "C" void warn_jpeg(j_common_ptr jpeg, int level) {
  const int code = jpeg->err->msg_code;
  if (level < 0 && (code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE)) escape_jpeg(jpeg);
}

extern "C" void ignore_jpeg(j_common_ptr /*jpeg*/) {}

extern "C" void count_scans(j_common_ptr jpeg) {
  if (reinterpret_cast<j_decompress_ptr>(jpeg)->input_scan_number > kMostScans) ERREXIT(jpeg, JERR_BAD_PROGRESSION);
}

/// Pillow takes every CMYK jpeg for an inverted one, as Adobe writes it.
void cmyk_to_rgb(const std::uint8_t* in, std::size_t pixels, std::uint8_t* out) {
  for (std::size_t i = 0; i < pixels; ++i, in += 4, out += 3) {
    const unsigned white = in[3];  // 255 - K
    for (std::size_t c = 0; c < 3; ++c) {
      const unsigned x = (255U - in[c]) * white + 128U;
      out[c] = static_cast<std::uint8_t>(white - (((x >> 8U) + x) >> 8U));
    }
  }
}

class JpegDecoder : public ImageDecoder {
 public:
  explicit JpegDecoder(const EncodedImage& image) : path_(image.path) {
    jpeg_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = &escape_jpeg;
    errors_.base.emit_message = &warn_jpeg;
    errors_.base.output_message = &ignore_jpeg;
    progress_.progress_monitor = &count_scans;
    if (!read_header(image.bytes)) refuse();
    size_ = {static_cast<int>(jpeg_.image_height), static_cast<int>(jpeg_.image_width)};
    for (const jpeg_marker_struct* marker = jpeg_.marker_list; marker != nullptr && tag_ == 0; marker = marker->next)
      tag_ = exif_tag_of({marker->data, marker->data_length});
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() override { jpeg_destroy_decompress(&jpeg_); }

  [[nodiscard]] FrameSize size() const override { return size_; }
  [[nodiscard]] int exif_tag() const override { return tag_; }

  std::vector<std::uint8_t> decode() override {
    const bool cmyk = jpeg_.num_components == 4;
    const auto width = static_cast<std::size_t>(size_.width);
    const std::size_t pixels = width * static_cast<std::size_t>(size_.height);
    std::vector<std::uint8_t> rgb(pixels * 3);
    line_.resize(cmyk ? width * 4 : 0);
    if (!read_lines(cmyk, rgb.data())) refuse();
    return rgb;
  }

 private:
  // The two functions with setjmp hold nothing that a jump would leak.
  bool read_header(const std::vector<std::uint8_t>& bytes) {
    if (setjmp(errors_.escape) != 0) return false;
    jpeg_create_decompress(&jpeg_);
    constexpr unsigned kMostMarker = 0xFFFF;
    jpeg_.progress = &progress_;
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, kMostMarker);
    jpeg_mem_src(&jpeg_, bytes.data(), bytes.size());
    jpeg_read_header(&jpeg_, TRUE);
    return true;
  }
  bool read_lines(bool cmyk, std::uint8_t* out) {
    if (setjmp(errors_.escape) != 0) return false;
    jpeg_.out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(&jpeg_);
    const auto width = static_cast<std::size_t>(size_.width);
    while (jpeg_.output_scanline < jpeg_.output_height) {
      std::uint8_t* rgb = out + jpeg_.output_scanline * width * 3;
      JSAMPROW row = cmyk ? line_.data() : rgb;
      jpeg_read_scanlines(&jpeg_, &row, 1);
      if (cmyk) cmyk_to_rgb(line_.data(), width, rgb);
    }
    jpeg_finish_decompress(&jpeg_);
    return true;
  }
  [[noreturn]] void refuse() {
    jpeg_destroy_decompress(&jpeg_);  // the destructor of a half-built object does not run
    const std::string message = errors_.message;
    fail(ErrorKind::kInput, "{}: {}; the jpeg file is damaged or cut short, save it again", path_, message);
  }

  std::string path_;
  jpeg_decompress_struct jpeg_ = {};
  JpegErrors errors_ = {};
  jpeg_progress_mgr progress_ = {};
  FrameSize size_;
  int tag_ = 0;
  std::vector<std::uint8_t> line_;
};

}  // namespace

std::unique_ptr<ImageDecoder> open_jpeg(const EncodedImage& image) { return std::make_unique<JpegDecoder>(image); }

}  // namespace purekv
