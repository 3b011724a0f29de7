#pragma once

#include <cstdint>

#include "media/input_file.h"

namespace purekv {

/// Compares what a container's own sizes claim with the file's length, before libav reads it: libav plays what is left
/// of a file that was cut, and reserves what a table claims. Throws Error(kInput).
void check_container(const InputFile& file);
void check_mp4(const InputFile& file);
void check_matroska(const InputFile& file);
void check_avi(const InputFile& file);

/// Throws where [at, at + size) of what is called `name` is not within the file.
void check_within(const InputFile& file, const char* name, std::int64_t at, std::uint64_t size);

/// Throws for a table that its box or file is too small for.
[[noreturn]] void refuse_table(const InputFile& file, const char* name, std::uint64_t entries, std::uint64_t bytes);

/// A big-endian integer of at most 8 bytes.
[[nodiscard]] inline std::uint64_t big_endian(const std::uint8_t* bytes, std::size_t count) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < count; ++i) value = value << 8U | bytes[i];
  return value;
}

}  // namespace purekv
