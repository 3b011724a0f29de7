#include "text/message.h"

#include "text/utf8.h"

namespace purekv {
namespace {

void append_printable(std::string& out, std::string_view text) {
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = read_utf8(text.substr(at));
    const bool is_control = step.code < 0x20 || (step.code >= 0x7F && step.code < 0xA0);
    // Line and paragraph separators would break the message's one line on some terminals.
    if (step.kind != Utf8Step::Kind::kWhole || is_control || step.code == 0x2028 || step.code == 0x2029)
      out += '?';
    else
      out += text.substr(at, step.length);
    at += step.length;
  }
}

}  // namespace

std::string shown(std::string_view text, std::size_t limit) {
  std::string out;
  if (text.size() <= limit) {
    append_printable(out, text);
    return out;
  }
  append_printable(out, text.substr(0, limit / 2));
  out += "...";
  append_printable(out, text.substr(text.size() - limit / 2));
  return out;
}

}  // namespace purekv
