#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "media/clip_plan.h"
#include "media/input_file.h"

namespace purekv {

/// What the text of a `.npy` header says.
struct NpyHeader {
  std::string dtype;
  bool fortran = false;
  std::vector<std::int64_t> shape;
};

/// Reads the Python literal of a header. `place` begins the message of Error(kInput).
NpyHeader parse_npy_header(const std::string& text, const std::string& place);

/// Frames of a `.npy` file, uint8 [T, H, W, 3], in C or Fortran order, of any version. They are read one at a time
/// (Fortran order: a block of them, since a frame's bytes lie all over the file).
class NpyFrames {
 public:
  static constexpr std::int64_t kBlockBytes = 64 << 20;
  /// Throws Error(kInput) for a header that cannot be, another type or shape, or a file too short for it.
  explicit NpyFrames(InputFile file, std::int64_t block_bytes = kBlockBytes);
  [[nodiscard]] const std::string& path() const { return file_.path(); }
  [[nodiscard]] std::int64_t frames() const { return frames_; }
  [[nodiscard]] FrameSize size() const { return size_; }
  /// Writes frame t, [height, width, 3], into `rgb` (resized to fit).
  void read(std::int64_t t, std::vector<std::uint8_t>& rgb);

 private:
  void read_header();
  void take_shape(const NpyHeader& header);
  void fill_block(std::int64_t t);

  InputFile file_;
  std::int64_t block_bytes_;
  std::int64_t data_at_ = 0, frames_ = 0, frame_bytes_ = 0;
  FrameSize size_;
  bool fortran_ = false;
  std::int64_t block_first_ = 0, block_frames_ = 0;
  std::vector<std::uint8_t> block_;  ///< [block_frames][height][width][3], Fortran order only
};

}  // namespace purekv
