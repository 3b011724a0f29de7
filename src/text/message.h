#pragma once

#include <string>
#include <string_view>

namespace purekv {

/// Text of a file that is not ours, fit for one line of an error (without quotes): control bytes and ill-formed UTF-8
/// become `?`, the middle of anything over `limit` bytes becomes `...`.
std::string shown(std::string_view text, std::size_t limit = 60);

}  // namespace purekv
