#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/matrix.h"
#include "engine/prompt.h"

namespace purekv {

/// One `.npy` file (version 1.0, little-endian, C order) written row by row; its shape is known at
/// the start. Throws Error(kResource) naming the file where it cannot be written.
class NpyWriter {
 public:
  NpyWriter(const std::string& path, std::string_view dtype, const std::vector<std::int64_t>& shape);
  void write(const void* data, std::int64_t bytes);
  void finish();

 private:
  std::string path_;
  std::ofstream file_;
};

/// The files of `--trace DIR` (docs/interfaces.md). With an empty directory every call does nothing.
class Trace {
 public:
  explicit Trace(std::string directory);
  [[nodiscard]] bool on() const { return !directory_.empty(); }

  void prompt(const Prompt& prompt, const VisionConfig& vision, std::span<const ClipInfo> media) const;
  void floats(std::string_view name, const float* data, const std::vector<std::int64_t>& shape) const;
  void layer_floats(std::string_view name, std::int64_t layer, const float* data,
                    const std::vector<std::int64_t>& shape) const;
  void ids(std::string_view name, std::span<const std::int32_t> data, const std::vector<std::int64_t>& shape) const;
  /// keep_LL: ascending prompt rows, padded with -1 to the longest head.
  void keep(std::int64_t layer, const std::vector<std::vector<std::int32_t>>& keep) const;
  [[nodiscard]] std::string path(std::string_view name) const;

 private:
  std::string directory_;
};

}  // namespace purekv
