#pragma once

#include <cstddef>
#include <string_view>

namespace purekv {

/// Whether the code point at that end of well-formed `text` is a word character: \w of UTS 18 in Unicode 16.
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

/// Bytes of Unicode white space at that end of well-formed `text`.
std::size_t leading_space(std::string_view text);
std::size_t trailing_space(std::string_view text);

}  // namespace purekv
