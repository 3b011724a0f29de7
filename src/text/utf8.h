#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace purekv {

/// What stands at one place of a byte string that should be UTF-8.
struct Utf8Step {
  enum class Kind : std::uint8_t {
    kWhole,   ///< a well-formed sequence
    kBroken,  ///< a maximal ill-formed part: no continuation can mend it
    kCut,     ///< the start of a well-formed sequence, ended by the end of the text
  };
  Kind kind = Kind::kWhole;
  std::uint8_t length = 1;  ///< bytes
  char32_t code = 0;        ///< where whole
};

/// Reads `text` (not empty) at its first byte. Overlong forms, surrogates and values above U+10FFFF are
/// ill-formed; the parts are those of Unicode 15, section 3.9 (and of WHATWG decoders).
Utf8Step read_utf8(std::string_view text);

/// Offset of the first byte that is not well-formed UTF-8, npos where all are.
std::size_t find_ill_formed(std::string_view text);

/// Appends a code point, which must not be a surrogate.
void append_utf8(std::string& out, char32_t code);

/// Appends `text` with U+FFFD for each maximal ill-formed part, and returns the bytes consumed: all, or all but
/// an incomplete tail where `keep_tail`.
std::size_t append_lossy(std::string& out, std::string_view text, bool keep_tail);

}  // namespace purekv
