#pragma once

#include <string>
#include <string_view>

namespace purekv {

/// Normalisation form C of well-formed UTF-8, by the rules of Unicode 9: the `tokenizers` package, whose ids are
/// the reference, composes and orders nothing that came later. O(n log n) for any text.
std::string to_nfc(std::string_view utf8);

}  // namespace purekv
