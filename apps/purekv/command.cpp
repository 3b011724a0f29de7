#include "command.h"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "errors.h"
#include "flag_binding.h"
#include "knobs.h"
#include "output.h"

namespace purekv::app {
namespace {

/// CLI11's help with our own first line: positional arguments are unknown to it.
class HelpFormatter : public CLI::Formatter {
 public:
  explicit HelpFormatter(std::string usage) : usage_(std::move(usage)) {
    constexpr std::size_t kColumn = 34;
    column_width(kColumn);
  }
  std::string make_usage(const CLI::App* /*app*/, std::string /*name*/) const override { return usage_ + "\n"; }

 private:
  std::string usage_;
};

struct SplitArguments {
  std::vector<std::string> flags, positionals;
  bool help = false;
};

/// "-" and negative numbers are no flags.
bool looks_like_flag(const std::string& argument) {
  return argument.size() > 1 && argument[0] == '-' && std::isdigit(static_cast<unsigned char>(argument[1])) == 0 &&
         argument[1] != '.';
}

SplitArguments split(const CLI::App& app, const std::vector<std::string>& arguments) {
  SplitArguments out;
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      out.positionals.insert(out.positionals.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i) + 1,
                             arguments.end());
      break;
    }
    if (!looks_like_flag(argument)) {
      out.positionals.push_back(argument);
      continue;
    }
    const std::size_t equals = argument.find('=');
    const std::string name = argument.substr(0, equals);
    const CLI::Option* option = app.get_option_no_throw(name);
    if (option == nullptr)
      fail(ErrorKind::kUsage, "unknown flag {}; see {} --help (a text that begins with a dash goes after --)", name,
           app.get_name());
    const bool has_value = equals != std::string::npos;
    const bool takes_value = option->get_expected_max() > 0;
    if (takes_value && !has_value && i + 1 == arguments.size()) fail(ErrorKind::kUsage, "{} needs a value", name);
    if (!takes_value && has_value)
      fail(ErrorKind::kUsage, "{} takes no value; leave out \"{}\"", name, argument.substr(equals));
    out.help = out.help || name == "-h" || name == "--help";
    out.flags.push_back(name);
    if (takes_value) out.flags.push_back(has_value ? argument.substr(equals + 1) : arguments[++i]);
  }
  return out;
}

/// The file that `flags` or the environment name, empty where neither does.
std::string config_path(const std::vector<std::string>& flags) {
  const auto at = std::find(flags.begin(), flags.end(), "--config");
  if (at != flags.end()) return *(at + 1);
  const char* variable = std::getenv("PUREKV_CONFIG");
  return variable != nullptr ? variable : "";
}

/// CLI11 refuses a second `--budget` too, but in words that do not name the remedy.
void refuse_repeats(const CLI::App& app, const std::vector<std::string>& flags) {
  std::vector<std::string> seen;
  for (std::size_t i = 0; i < flags.size(); ++i) {
    if (std::find(seen.begin(), seen.end(), flags[i]) != seen.end())
      fail(ErrorKind::kUsage, "{} is given twice; give it once", flags[i]);
    seen.push_back(flags[i]);
    if (app.get_option_no_throw(flags[i])->get_expected_max() > 0) ++i;
  }
}

}  // namespace

Command::Command(const std::string& name, const std::string& arguments, const std::string& about)
    : app_("", "purekv " + name), about_(about.substr(0, about.find('\n'))) {
  app_.formatter(
      std::make_shared<HelpFormatter>("purekv " + name + ": " + about + "\n\nUsage: purekv " + name + " " + arguments));
  app_.set_help_flag("-h,--help", "print this and exit")->group("Help");
  bind_path({app_, "Help"}, {"--config", "FILE", "flags as lines of TOML, such as budget = \"10%\""}, config_);
}

void Command::parse(std::vector<std::string> flags, const std::set<std::string>& known) {
  refuse_repeats(app_, flags);
  std::vector<Knob> knobs = environment_knobs(app_);
  add_knobs(app_, knobs, flags);
  if (const std::string path = config_path(flags); !path.empty()) {
    const std::vector<Knob> more = file_knobs(path, app_, known);
    add_knobs(app_, more, flags);
    knobs.insert(knobs.end(), more.begin(), more.end());
  }
  std::reverse(flags.begin(), flags.end());  // CLI11 pops from the back
  try {
    app_.parse(flags);
  } catch (const CLI::Error& error) {
    fail(ErrorKind::kUsage, "{}; see {} --help", error.what(), app_.get_name());
  } catch (const Error& error) {
    // A value that nobody typed now: say where it stands.
    const std::string_view message = error.what();
    for (const Knob& knob : knobs)
      if (message.starts_with(fmt::format("{} is \"{}\"", knob.flag, knob.value)))
        fail(error.kind(), "{} ({})", message, knob.origin);
    throw;
  }
}

void Command::start(const std::vector<std::string>& arguments, const std::set<std::string>& known) {
  SplitArguments parts = split(app_, arguments);
  if (parts.help) {
    std::string text = app_.help();
    // CLI11 puts two empty lines between groups.
    for (std::size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) text.erase(at, 1);
    write_out(text);
    return;
  }
  parse(std::move(parts.flags), known);
  run(parts.positionals);
}

}  // namespace purekv::app
