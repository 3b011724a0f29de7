#pragma once

#include <cstddef>
#include <string_view>

namespace purekv::app {

/// Offset of the first byte that does not begin a well-formed UTF-8 sequence, npos where all do.
/// Overlong forms, surrogates and values above U+10FFFF are ill-formed.
std::size_t find_ill_formed(std::string_view text);

}  // namespace purekv::app
