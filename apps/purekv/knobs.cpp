#include "knobs.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <sstream>

#include "errors.h"
#include "output.h"

namespace purekv::app {
namespace {

constexpr std::size_t kMostConfig = 1U << 20U;
/// What asks for help or names the file itself is no knob.
constexpr std::array<std::string_view, 2> kNoKnobs = {"--help", "--config"};

bool is_knob(const std::string& flag) { return std::find(kNoKnobs.begin(), kNoKnobs.end(), flag) == kNoKnobs.end(); }

std::vector<std::string> flags_of(const CLI::App& app) {
  std::vector<std::string> flags;
  for (const CLI::Option* option : app.get_options())
    for (const std::string& name : option->get_lnames())
      if (is_knob("--" + name)) flags.push_back("--" + name);
  return flags;
}

std::string variable_of(const std::string& flag) {
  std::string name = "PUREKV_" + flag.substr(2);
  for (char& c : name) c = c == '-' ? '_' : static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

bool is_switch(const CLI::App& app, const std::string& flag) {
  return app.get_option_no_throw(flag)->get_expected_max() == 0;
}

bool read_switch(const Knob& knob) {
  if (knob.value == "1" || knob.value == "true") return true;
  if (knob.value == "0" || knob.value == "false") return false;
  fail(ErrorKind::kUsage, "{} is \"{}\"; give true or false", knob.origin, knob.value);
}

}  // namespace

std::vector<Knob> environment_knobs(const CLI::App& app) {
  std::vector<Knob> knobs;
  for (const std::string& flag : flags_of(app)) {
    const std::string name = variable_of(flag);
    const char* value = std::getenv(name.c_str());
    if (value != nullptr && *value != '\0') knobs.push_back({flag, value, name});
  }
  return knobs;
}

std::vector<Knob> file_knobs(const std::string& path, const CLI::App& app, const std::set<std::string>& known) {
  std::istringstream text(read_file(path, kMostConfig));
  std::vector<CLI::ConfigItem> items;
  try {
    items = CLI::ConfigTOML().from_config(text);
  } catch (const CLI::Error& error) {
    fail(ErrorKind::kUsage, "{}: {}; write lines such as budget = \"20%\"", path, error.what());
  }
  const std::vector<std::string> mine = flags_of(app);
  std::vector<Knob> knobs;
  for (const CLI::ConfigItem& item : items) {
    std::string flag = "--" + item.name;
    std::replace(flag.begin(), flag.end(), '_', '-');
    if (!item.parents.empty() || !known.contains(flag) || !is_knob(flag))
      fail(ErrorKind::kUsage, "{}: unknown knob {}; the names are the flags of purekv ask --help, without the dashes",
           path, item.fullname());
    if (item.inputs.size() != 1)
      fail(ErrorKind::kUsage, "{}: {} has {} values; give one", path, item.name, item.inputs.size());
    if (std::find(mine.begin(), mine.end(), flag) == mine.end()) continue;
    const bool is_again = std::any_of(knobs.begin(), knobs.end(), [&](const Knob& knob) { return knob.flag == flag; });
    if (is_again) fail(ErrorKind::kUsage, "{}: {} is given twice; give it once", path, item.name);
    knobs.push_back({flag, item.inputs.front(), fmt::format("{} in {}", item.name, path)});
  }
  return knobs;
}

void add_knobs(const CLI::App& app, const std::vector<Knob>& knobs, std::vector<std::string>& flags) {
  const std::vector<std::string> before = flags;
  for (const Knob& knob : knobs) {
    bool is_given = false;
    for (std::size_t i = 0; i < before.size(); ++i) {
      is_given = is_given || before[i] == knob.flag;
      if (!is_switch(app, before[i])) ++i;
    }
    if (is_given) continue;
    if (!is_switch(app, knob.flag)) {
      flags.push_back(knob.flag);
      flags.push_back(knob.value);
    } else if (read_switch(knob)) {
      flags.push_back(knob.flag);
    }
  }
}

}  // namespace purekv::app
