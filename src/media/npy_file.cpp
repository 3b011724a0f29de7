#include "media/npy_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr std::size_t kMagicBytes = 6;
constexpr std::size_t kMostHeader = 1 << 16;
constexpr std::int64_t kChunk = 1 << 22;

}  // namespace

NpyFrames::NpyFrames(InputFile file, std::int64_t block_bytes) : file_(std::move(file)), block_bytes_(block_bytes) {
  read_header();
}

void NpyFrames::read_header() {
  std::uint8_t lead[kMagicBytes + 6];
  file_.read_exactly(0, lead, kMagicBytes + 4);
  const int version = lead[kMagicBytes];
  if (version < 1 || version > 3)
    fail(ErrorKind::kInput, "{}: .npy version {}, known are 1 to 3; save the frames again", path(), version);
  const std::size_t length_bytes = version == 1 ? 2 : 4;
  const std::size_t text_at = kMagicBytes + 2 + length_bytes;
  file_.read_exactly(0, lead, text_at);
  std::size_t length = 0;
  for (std::size_t i = length_bytes; i-- > 0;) length = length << 8U | lead[kMagicBytes + 2 + i];
  if (length > kMostHeader)
    fail(ErrorKind::kInput, "{}: a .npy header of {} bytes, at most {} are possible; save the frames again", path(),
         length, kMostHeader);
  std::string text(length, '\0');
  file_.read_exactly(static_cast<std::int64_t>(text_at), text.data(), length);
  data_at_ = static_cast<std::int64_t>(text_at + length);
  take_shape(parse_npy_header(text, path()));
}

void NpyFrames::take_shape(const NpyHeader& header) {
  const std::vector<std::int64_t>& shape = header.shape;
  const std::string shown = fmt::format("{} [{}]", header.dtype, fmt::join(shape, ", "));
  const std::string& dtype = header.dtype;
  const bool bytes = dtype == "u1" || (dtype.size() == 3 && dtype.find_first_of("|<>=") == 0 && dtype.ends_with("u1"));
  if (!bytes || shape.size() != 4 || shape[3] != 3)
    fail(ErrorKind::kInput, "{}: holds {}, needed is |u1 [frames, height, width, 3]; convert it", path(), shown);
  if (shape[0] < 1) fail(ErrorKind::kInput, "{}: holds {}, no frame; save one or more", path(), shown);
  check_source_size(path(), shape[1], shape[2], kMostSide);
  frames_ = shape[0];
  size_ = {static_cast<int>(shape[1]), static_cast<int>(shape[2])};
  frame_bytes_ = shape[1] * shape[2] * 3;
  fortran_ = header.fortran;
  const std::int64_t present = file_.size() - data_at_;
  if (frames_ <= present / frame_bytes_) return;
  std::int64_t needed = 0;
  if (__builtin_mul_overflow(frames_, frame_bytes_, &needed)) needed = std::numeric_limits<std::int64_t>::max();
  fail(ErrorKind::kInput,
       "{}: holds {}, but {} bytes follow, {} are needed ({} frames of {}); the file is cut short, copy it again",
       path(), shown, present, needed, frames_, frame_bytes_);
}

void NpyFrames::read(std::int64_t t, std::vector<std::uint8_t>& rgb) {
  PUREKV_ASSERT(t >= 0 && t < frames_);
  rgb.resize(static_cast<std::size_t>(frame_bytes_));
  if (!fortran_) {
    file_.read_exactly(data_at_ + t * frame_bytes_, rgb.data(), rgb.size());
    return;
  }
  if (t < block_first_ || t >= block_first_ + block_frames_) fill_block(t);
  std::copy_n(block_.begin() + (t - block_first_) * frame_bytes_, frame_bytes_, rgb.begin());
}

/// Element [t, y, x, c] of Fortran order lies at t + T (y + H (x + W c)).
void NpyFrames::fill_block(std::int64_t t) {
  block_first_ = t;
  block_frames_ = std::clamp<std::int64_t>(block_bytes_ / frame_bytes_, 1, frames_ - t);
  block_.resize(static_cast<std::size_t>(block_frames_ * frame_bytes_));
  const std::int64_t height = size_.height;
  const std::int64_t width = size_.width;
  const std::int64_t total = frames_ * frame_bytes_;
  std::vector<std::uint8_t> chunk(static_cast<std::size_t>(std::min(kChunk, total)));
  std::int64_t chunk_at = 0;
  std::int64_t chunk_end = 0;
  for (std::int64_t pixel = 0; pixel < frame_bytes_; ++pixel) {
    const std::int64_t y = pixel % height;
    const std::int64_t x = pixel / height % width;
    const std::int64_t c = pixel / height / width;
    std::uint8_t* out = block_.data() + (y * width + x) * 3 + c;
    for (std::int64_t f = 0; f < block_frames_; ++f) {
      const std::int64_t at = pixel * frames_ + block_first_ + f;
      if (at >= chunk_end) {
        chunk_at = at;
        chunk_end = std::min(total, at + kChunk);
        file_.read_exactly(data_at_ + chunk_at, chunk.data(), static_cast<std::size_t>(chunk_end - chunk_at));
      }
      out[f * frame_bytes_] = chunk[static_cast<std::size_t>(at - chunk_at)];
    }
  }
}

}  // namespace purekv
