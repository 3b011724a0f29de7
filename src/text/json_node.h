#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace purekv {

inline constexpr std::string_view kIdRemedy = "an id from 0 to 2147483647 belongs there; copy the file again";

/// A value of a JSON file with its place in it, for errors. Fields that are null count as absent.
class JsonNode {
 public:
  /// `joint` stands between the place and a field's name: ": " after a file's name.
  JsonNode(const nlohmann::json& value, std::string place, const char* joint = ".")
      : value_(&value), place_(std::move(place)), joint_(joint) {}

  [[nodiscard]] const nlohmann::json& value() const { return *value_; }
  [[nodiscard]] const std::string& place() const { return place_; }
  [[nodiscard]] bool is_null() const { return value_->is_null(); }

  /// A field, null where it is absent. Throws Error(kInput) where this is no object.
  [[nodiscard]] JsonNode field(const char* name) const;
  [[nodiscard]] JsonNode item(std::size_t index) const;

  /// The value, checked. Each throws Error(kInput) naming place and value.
  [[nodiscard]] const std::string& text() const;
  [[nodiscard]] bool flag_or(bool absent) const;
  [[nodiscard]] std::int32_t id() const;  ///< 0 to 2^31 - 1
  [[nodiscard]] std::optional<std::int32_t> as_id() const;
  [[nodiscard]] std::string type() const;  ///< the field `type`
  void require_object() const;
  void require_array() const;

  /// Throws Error(kInput): "<place> is <value>: <remedy>".
  [[noreturn]] void refuse(std::string_view remedy) const;

 private:
  const nlohmann::json* value_;
  std::string place_;
  const char* joint_;
};

/// The text of a regular file. Throws Error(kInput) naming it where it is missing, no regular file (a FIFO would
/// block), unreadable or larger than `max_bytes`.
std::string read_regular_file(const std::string& path, std::size_t max_bytes);

}  // namespace purekv
