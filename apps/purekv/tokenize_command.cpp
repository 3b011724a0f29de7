#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>

#include "command.h"
#include "errors.h"
#include "flag_binding.h"
#include "interrupt.h"
#include "model_path.h"
#include "output.h"
#include "purekv/tokenizer.h"
#include "settings_json.h"

namespace purekv::app {
namespace {

[[noreturn]] void fail_line(std::int64_t number, std::string_view wanted) {
  fail(ErrorKind::kInput, "line {} of standard input is no {}", number, wanted);
}

/// Discarded where `line` is no JSON. A NUL would end the parser's input early.
Json parse_line(const std::string& line) {
  return line.find('\0') == std::string::npos ? Json::parse(line, nullptr, false) : Json(Json::value_t::discarded);
}

/// JSON that stays one line for readers that break lines at Unicode's other line ends too.
std::string dump_line(const Json& json) {
  struct Escape {
    std::string_view raw, escaped;
  };
  constexpr std::array<Escape, 3> kLineEnds = {
      {{"\xC2\x85", "\\u0085"}, {"\xE2\x80\xA8", "\\u2028"}, {"\xE2\x80\xA9", "\\u2029"}}};
  const std::string text = dump(json);
  std::string line;
  for (std::size_t at = 0; at < text.size();) {
    const std::string_view rest = std::string_view(text).substr(at);
    const auto is_next = [rest](const Escape& end) { return rest.starts_with(end.raw); };
    const auto* const end = std::find_if(kLineEnds.begin(), kLineEnds.end(), is_next);
    line += end == kLineEnds.end() ? rest.substr(0, 1) : end->escaped;
    at += end == kLineEnds.end() ? 1 : end->raw.size();
  }
  return line + '\n';
}

std::string read_string(const std::string& line, std::int64_t number) {
  const Json json = parse_line(line);
  if (!json.is_string()) fail_line(number, "JSON string in UTF-8, such as \"a cat\"");
  return json.get<std::string>();
}

std::vector<std::int32_t> read_ids(const std::string& line, std::int64_t number) {
  constexpr std::string_view kWanted = "JSON array of token ids, such as [1, 2]";
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max());
  const Json json = parse_line(line);
  if (!json.is_array()) fail_line(number, kWanted);
  std::vector<std::int32_t> ids;
  ids.reserve(json.size());
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<std::uint64_t>() > kMost) fail_line(number, kWanted);
    ids.push_back(item.get<std::int32_t>());
  }
  return ids;
}

class TokenizeCommand : public Command {
 public:
  TokenizeCommand()
      : Command("tokenize", "[FLAGS] < LINES",
                "text to token ids and back\n\n"
                "Each line of standard input is a JSON string; its ids are printed as a JSON array. With --decode the\n"
                "other way round.") {
    const FlagGroup group{app_, "Flags"};
    bind_path(group, {"--model", "DIR", "folder with a tokenizer.json (default: the demo model)"}, model_);
    bind_switch(group, "--special", "added tokens in the text become their ids; with --decode they are printed",
                special_);
    bind_switch(group, "--decode", "ids to text", decode_);
  }

 private:
  void run(const std::vector<std::string>& positionals) override {
    if (!positionals.empty())
      fail(ErrorKind::kUsage, "tokenize reads standard input; leave out \"{}\"", positionals.front());
    const Tokenizer tokenizer = Tokenizer::load(find_model(model_).directory + "/tokenizer.json");
    // Standard output stays empty where a later line is wrong, except for a person who types.
    const bool at_once = isatty(STDIN_FILENO) == 1;
    LineReader reader;
    std::string line;
    std::string out;
    while (reader.next(line)) {
      check_interrupt();
      const Json result = decode_ ? Json(tokenizer.decode(read_ids(line, reader.number()), special_))
                                  : Json(tokenizer.encode(read_string(line, reader.number()), special_));
      out += dump_line(result);
      if (!at_once) continue;
      write_out(out);
      flush_out();
      out.clear();
    }
    write_out(out);
  }

  std::optional<std::string> model_;
  bool special_ = false, decode_ = false;
};

}  // namespace

std::unique_ptr<Command> make_tokenize_command() { return std::make_unique<TokenizeCommand>(); }

}  // namespace purekv::app
