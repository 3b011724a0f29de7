#pragma once

#include <string>
#include <string_view>

namespace purekv {

/// The first construct of a split pattern that Oniguruma (Ruby syntax) and PCRE2 read differently or that only one
/// of them knows, such as `\h` or a nested class; empty where there is none. What it lets through still may be
/// ill-formed.
std::string find_ambiguous_construct(std::string_view pattern);

}  // namespace purekv
