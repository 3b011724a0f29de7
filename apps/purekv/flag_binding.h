#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <utility>

#include "choices.h"
#include "numbers.h"

namespace purekv::app {

/// How a flag looks in help: its name, what its value is called, and one line about it.
struct FlagText {
  std::string name, value, help;
};

/// Where a flag goes: a command, and the heading it stands under in help.
struct FlagGroup {
  CLI::App& app;
  std::string name;
};

/// Adds a flag whose value `parse(flag, text)` turns into a T. CLI11's own conversions are left out:
/// they accept blanks, octal numbers and overflow.
template <class Target, class Parse>
CLI::Option* bind(const FlagGroup& group, const FlagText& text, Target& target, Parse parse) {
  const CLI::callback_t read = [&target, parse, name = text.name](const CLI::results_t& results) {
    target = parse(name, results.at(0));
    return true;
  };
  return group.app.add_option(text.name, read, text.help)
      ->type_name(text.value)
      ->type_size(1)
      ->expected(1)
      ->group(group.name);
}

template <class Target>
CLI::Option* bind_integer(const FlagGroup& group, const FlagText& text, Target& target, std::int64_t low,
                          std::int64_t high = kMostCount) {
  return bind(group, text, target, [low, high](const std::string& name, const std::string& value) {
    return parse_integer(name, value, low, high);
  });
}

template <class Target>
CLI::Option* bind_real(const FlagGroup& group, const FlagText& text, Target& target, const RealRange& range) {
  return bind(group, text, target,
              [range](const std::string& name, const std::string& value) { return parse_real(name, value, range); });
}

/// The value's name in help is the list of words.
template <class Target, class E, std::size_t N>
CLI::Option* bind_choice(const FlagGroup& group, const std::string& name, const std::string& help, Target& target,
                         const Choices<E, N>& choices) {
  return bind(
      group, {name, words(choices), help}, target,
      [&choices](const std::string& flag, const std::string& value) { return parse_choice(flag, value, choices); });
}

inline void bind_switch(const FlagGroup& group, const std::string& name, const std::string& help, bool& target) {
  group.app.add_flag(name, target, help)->group(group.name);
}

/// A text that must not be empty: a folder or a file.
template <class Target>
CLI::Option* bind_path(const FlagGroup& group, const FlagText& text, Target& target) {
  return bind(group, text, target, [](const std::string& name, const std::string& value) {
    if (value.empty()) fail(ErrorKind::kUsage, "{} is empty; give a path", name);
    return value;
  });
}

}  // namespace purekv::app
