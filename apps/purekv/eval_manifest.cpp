#include "eval_manifest.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "errors.h"
#include "numbers.h"
#include "output.h"
#include "settings_json.h"

namespace purekv::app {
namespace {

constexpr std::size_t kMostBytes = 1U << 28U;

std::string text_field(const Json& json, const std::string& where, const char* field) {
  const auto found = json.find(field);
  if (found == json.end() || !found->is_string())
    fail(ErrorKind::kInput, "{} has no text \"{}\"; every item needs id, media, question, answer and task", where,
         field);
  return found->get<std::string>();
}

EvalItem read_item(const Json& json, const std::string& where, const std::filesystem::path& folder) {
  if (!json.is_object()) fail(ErrorKind::kInput, "{} is no JSON object", where);
  EvalItem item;
  item.id = text_field(json, where, "id");
  item.question = text_field(json, where, "question");
  item.answer = text_field(json, where, "answer");
  item.task = text_field(json, where, "task");
  const auto media = json.find("media");
  if (media == json.end() || !media->is_array())
    fail(ErrorKind::kInput, "{} has no list \"media\"; a text question has an empty one", where);
  for (const Json& path : *media) {
    if (!path.is_string()) fail(ErrorKind::kInput, "{} has a medium that is no text", where);
    item.media.push_back((folder / path.get<std::string>()).string());
  }
  if (item.question.empty()) fail(ErrorKind::kInput, "{} has an empty question", where);
  return item;
}

/// The items of a JSON lines file, "line 3 of FILE" naming each.
std::vector<EvalItem> read_lines(const std::string& path, const std::string& text,
                                 const std::filesystem::path& folder) {
  std::vector<EvalItem> items;
  std::int64_t number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    items.push_back(read_item(Json::parse(line, nullptr, false), fmt::format("line {} of {}", number, path), folder));
  }
  return items;
}

/// What a setting's name stands for; the flags of the command line hold for the rest.
AskFlags flags_of(const std::string& name, AskFlags flags) {
  if (name == "full") flags.compression.method = Method::kFull;
  if (name == "random") flags.compression.method = Method::kRandom;
  if (name == "purekv" || name == "purekv-paper") flags.compression.preset = name;
  return flags;
}

EvalSetting parse_setting(const std::string& text, const AskFlags& flags) {
  const std::size_t at = text.find('@');
  const std::string name = text.substr(0, at);
  if (name != "full" && name != "random" && name != "purekv" && name != "purekv-paper")
    fail(ErrorKind::kUsage, "--settings has \"{}\"; known are full, random@20%, purekv@20% and purekv-paper@20%", text);
  if ((name == "full") != (at == std::string::npos))
    fail(ErrorKind::kUsage, "--settings has \"{}\"; {}", text,
         name == "full" ? "full has no budget" : "give its budget, such as " + name + "@20%");
  AskFlags all = flags_of(name, flags);
  if (at != std::string::npos) all.compression.budget = parse_budget("--settings " + name, text.substr(at + 1));
  return {text, resolve(all)};
}

}  // namespace

std::vector<EvalItem> read_manifest(const std::string& path) {
  const std::string text = read_file(path, kMostBytes);
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  const Json whole = Json::parse(text, nullptr, false);
  std::vector<EvalItem> items;
  if (whole.is_object() && whole.contains("items")) {
    const Json& list = whole["items"];
    if (!list.is_array()) fail(ErrorKind::kInput, "\"items\" of {} is no list", path);
    for (std::size_t i = 0; i < list.size(); ++i)
      items.push_back(read_item(list[i], fmt::format("item {} of {}", i + 1, path), folder));
  } else {
    items = read_lines(path, text, folder);
  }
  if (items.empty()) fail(ErrorKind::kInput, "{} holds no items", path);
  std::set<std::string> ids;
  for (const EvalItem& item : items)
    if (!ids.insert(item.id).second) fail(ErrorKind::kInput, "{} has the id \"{}\" twice", path, item.id);
  return items;
}

std::vector<EvalSetting> make_settings(const std::string& list, const AskFlags& flags) {
  const CompressionFlags& given = flags.compression;
  if (list.empty()) {
    const AskOptions options = resolve(flags);
    if (options.compression.method == Method::kFull) return {{"full", options}};
    const bool random = options.compression.method == Method::kRandom;
    return {{(random ? "random" : options.preset) + "@" + budget_text(options.compression.budget), options}};
  }
  if (given.method || given.preset || given.budget)
    fail(ErrorKind::kUsage, "--settings contradicts --method, --preset and --budget; name them in --settings");
  std::vector<EvalSetting> settings;
  for (const std::string& text : CLI::detail::split(list, ',')) {
    for (const EvalSetting& known : settings)
      if (known.name == text) fail(ErrorKind::kUsage, "--settings has \"{}\" twice; name it once", text);
    settings.push_back(parse_setting(text, flags));
  }
  return settings;
}

}  // namespace purekv::app
