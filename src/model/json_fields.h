#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace purekv {

/// What a JSON text may ask of memory before it is refused.
struct JsonLimits {
  std::size_t depth = 64;
  std::size_t values = 1'000'000;  ///< keys count too
};

/// Text of a file that is not ours, fit for one line of an error: control bytes become `?`, the
/// middle of anything over `limit` bytes becomes `...`.
std::string printable(std::string_view text, std::size_t limit = 200);

/// The whole of a regular file of at most `max_bytes`. Throws Error(kInput) naming `path` where it is
/// missing, no regular file (a FIFO would block), unreadable or larger.
std::string read_small_file(const std::string& path, std::size_t max_bytes);

/// Strict JSON: an object at the top, no duplicate key at any depth, within `limits`. `place` names the
/// text in errors, which carry the byte offset.
nlohmann::json parse_json_object(std::string_view text, const std::string& place, const JsonLimits& limits);

/// Inclusive bounds of an integer field.
struct IntegerRange {
  std::int64_t low = 1, high = 1;
};

/// Inclusive bounds of a number field.
struct NumberRange {
  double low = 0, high = 0;
};

/// Reads the fields of one JSON object, each checked for type and range. A field that is null counts as
/// absent. Every error names place, field, value and the values that are taken.
class JsonFields {
 public:
  /// `object` must be a JSON object and outlive this; `place` is the file and the object within it.
  JsonFields(const nlohmann::json& object, std::string place) : object_(&object), place_(std::move(place)) {}

  [[nodiscard]] bool has(const char* name) const { return find(name) != nullptr; }
  [[nodiscard]] const std::string& place() const { return place_; }

  [[nodiscard]] std::int64_t integer(const char* name, IntegerRange range) const;  ///< required
  [[nodiscard]] std::int64_t integer_or(const char* name, std::int64_t absent, IntegerRange range) const;
  [[nodiscard]] double number_or(const char* name, double absent, NumberRange range) const;
  [[nodiscard]] bool flag_or(const char* name, bool absent) const;
  [[nodiscard]] std::string text_or(const char* name, const std::string& absent) const;
  /// A list of at most `max_count` integers; a lone integer is a list of one.
  [[nodiscard]] std::vector<std::int64_t> integers(const char* name, IntegerRange range, std::size_t max_count) const;
  /// A list of exactly `count` numbers.
  [[nodiscard]] std::vector<double> numbers(const char* name, NumberRange range, std::size_t count) const;
  [[nodiscard]] std::vector<std::string> texts(const char* name, std::size_t max_count) const;
  [[nodiscard]] JsonFields object(const char* name) const;  ///< required

  /// Throws Error(kInput): "<place>: <name> is <value>: <remedy>".
  [[noreturn]] void refuse(const char* name, std::string_view remedy) const;

 private:
  [[nodiscard]] const nlohmann::json* find(const char* name) const;
  [[nodiscard]] std::int64_t checked(const nlohmann::json& value, const char* name, IntegerRange range) const;
  [[nodiscard]] double checked(const nlohmann::json& value, const char* name, NumberRange range) const;

  const nlohmann::json* object_;
  std::string place_;
};

}  // namespace purekv
