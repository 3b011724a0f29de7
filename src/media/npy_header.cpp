#include <cctype>
#include <optional>
#include <string_view>

#include "base/fail.h"
#include "media/npy_file.h"

namespace purekv {
namespace {

constexpr std::size_t kMostDims = 32;

/// A cursor over the header's dictionary: {'descr': '|u1', 'fortran_order': False, 'shape': (4, 56, 84, 3), }
class HeaderReader {
 public:
  HeaderReader(std::string_view text, const std::string& place) : text_(text), place_(place) {}

  NpyHeader read() {
    expect('{');
    while (!take('}')) {
      field(string());
      if (!take(',')) {
        expect('}');
        break;
      }
    }
    skip_space();
    if (at_ != text_.size()) refuse("text after the dictionary");
    if (!dtype_ || !fortran_ || !shape_) refuse("needs descr, fortran_order and shape");
    return {*dtype_, *fortran_, *shape_};
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    fail(ErrorKind::kInput, "{}: bad .npy header at character {}: {}; save the frames again", place_, at_, what);
  }

  void field(const std::string& key) {
    expect(':');
    if (key == "descr" && !dtype_) {
      skip_space();
      if (at_ < text_.size() && text_[at_] == '[') refuse("a structured dtype");
      dtype_ = string();
    } else if (key == "fortran_order" && !fortran_) {
      fortran_ = boolean();
    } else if (key == "shape" && !shape_) {
      shape_ = tuple();
    } else {
      refuse("an unknown or repeated key");
    }
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n' || text_[at_] == '\t' || text_[at_] == '\r'))
      ++at_;
  }
  bool take(char c) {
    skip_space();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    if (!take(c)) refuse(fmt::format("expected {}", c));
  }
  std::string string() {
    skip_space();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') refuse("expected a string");
    const std::size_t end = text_.find(quote, at_ + 1);
    if (end == std::string_view::npos) refuse("a string without end");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return value;
  }
  bool boolean() {
    skip_space();
    for (const std::string_view word : {"True", "False"})
      if (text_.substr(at_, word.size()) == word) {
        at_ += word.size();
        return word == "True";
      }
    refuse("expected True or False");
  }
  std::int64_t integer() {
    skip_space();
    std::int64_t value = 0;
    const std::size_t begin = at_;
    for (; at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) != 0; ++at_)
      if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, text_[at_] - '0', &value))
        refuse("a size above 2^63 - 1");
    if (at_ == begin) refuse("expected a size");
    if (at_ < text_.size() && text_[at_] == 'L') ++at_;  // Python 2 wrote long integers so
    return value;
  }
  std::vector<std::int64_t> tuple() {
    std::vector<std::int64_t> values;
    expect('(');
    while (!take(')')) {
      values.push_back(integer());
      if (values.size() > kMostDims) refuse("too many dimensions");
      if (!take(',')) {
        expect(')');
        break;
      }
    }
    return values;
  }

  std::string_view text_;
  const std::string& place_;
  std::size_t at_ = 0;
  std::optional<std::string> dtype_;
  std::optional<bool> fortran_;
  std::optional<std::vector<std::int64_t>> shape_;
};

}  // namespace

NpyHeader parse_npy_header(const std::string& text, const std::string& place) {
  return HeaderReader(text, place).read();
}

}  // namespace purekv
