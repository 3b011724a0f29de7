#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/dtype.h"

namespace purekv {

/// One safetensors file, mapped read only once its header has proven to describe the file exactly.
class SafetensorsFile {
 public:
  struct Entry {
    std::string name;
    DType dtype = DType::kF32;
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0, bytes = 0;  ///< within the file's data part
    const void* data = nullptr;         ///< any alignment: the format asks for none
  };

  /// Checks every rule of the format: header length, JSON, types, shapes, and offsets that cover the
  /// data part without hole or overlap up to the end of the file. Throws Error(kInput).
  static SafetensorsFile open(const std::string& path);
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;
  ~SafetensorsFile();

  [[nodiscard]] const std::string& place() const { return place_; }             ///< the path, fit for errors
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }  ///< by offset

 private:
  SafetensorsFile() = default;

  std::string place_;
  std::vector<Entry> entries_;
  void* map_ = nullptr;
  std::size_t map_bytes_ = 0;
};

}  // namespace purekv
