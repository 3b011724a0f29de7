#include "text/pattern_check.h"

#include <algorithm>
#include <array>

namespace purekv {
namespace {

/// Names whose classes the stand-ins of unicode_tables.h keep equal.
constexpr std::array<std::string_view, 35> kCategories = {
    "L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "Mn", "Mc", "Me", "N",  "Nd", "Nl", "No", "P",  "Pc", "Pd", "Ps",
    "Pe", "Pi", "Pf", "Po", "S",  "Sm", "Sc", "Sk", "So", "Z",  "Zs", "Zl", "Zp", "C",  "Cc", "Cf", "Co"};
/// Escapes that both engines read alike. \w and \b differ over combining marks, \h and \v in kind.
constexpr std::string_view kSameEscapes = "sSdDrntf";
constexpr std::array<std::string_view, 8> kSameGroups = {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?i:", "(?-i:"};

bool is_alphanumeric(char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); }

/// Walks a pattern once; `at_` is the construct under test.
class Scanner {
 public:
  explicit Scanner(std::string_view pattern) : pattern_(pattern) {}

  std::string find() {
    while (at_ < pattern_.size()) {
      const std::size_t length = in_class_ ? class_item() : item();
      if (length == 0) return std::string(rest().substr(0, 8));
      at_ += length;
    }
    return {};
  }

 private:
  [[nodiscard]] std::string_view rest() const { return pattern_.substr(at_); }

  /// Length of the construct at `at_`, 0 where it is ambiguous.
  std::size_t item() {
    const std::string_view here = rest();
    if (here[0] == '\\') return escape();
    if (here[0] == '[') {
      in_class_ = true;
      const std::size_t length = here.starts_with("[^") ? 2 : 1;
      return here.substr(length).starts_with("]") ? 0 : length;
    }
    if (here.starts_with("(*") || here.starts_with("{,") || here.starts_with("}+")) return 0;
    if (!here.starts_with("(?")) return 1;
    const auto is_prefix = [here](std::string_view group) { return here.starts_with(group); };
    const auto* const group = std::find_if(kSameGroups.begin(), kSameGroups.end(), is_prefix);
    return group == kSameGroups.end() ? 0 : group->size();
  }

  std::size_t class_item() {
    const std::string_view here = rest();
    if (here[0] == '\\') return escape();
    if (here[0] == '[' || here.starts_with("&&")) return 0;
    if (here[0] == ']') in_class_ = false;
    return 1;
  }

  [[nodiscard]] std::size_t escape() const {
    const std::string_view here = rest();
    if (here.size() < 2) return 0;
    const char name = here[1];
    if (!is_alphanumeric(name) || kSameEscapes.find(name) != std::string_view::npos) return 2;
    if ((name != 'p' && name != 'P') || !here.substr(2).starts_with("{")) return 0;
    const std::size_t end = here.find('}');
    if (end == std::string_view::npos) return 0;
    std::string_view category = here.substr(3, end - 3);
    if (category.starts_with("^")) category.remove_prefix(1);
    return std::find(kCategories.begin(), kCategories.end(), category) == kCategories.end() ? 0 : end + 1;
  }

  std::string_view pattern_;
  std::size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string find_ambiguous_construct(std::string_view pattern) { return Scanner(pattern).find(); }

}  // namespace purekv
