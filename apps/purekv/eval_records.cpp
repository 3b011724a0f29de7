#include "eval_records.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <set>

#include "errors.h"
#include "output.h"

namespace purekv::app {
namespace {

constexpr std::size_t kMostBytes = 1U << 28U;
constexpr const char* kAll = "all";

Json record_json(const EvalRecord& r) {
  return {{"id", r.id},
          {"setting", r.setting},
          {"task", r.task},
          {"correct", r.correct},
          {"answer", r.answer},
          {"expected", r.expected},
          {"prompt_tokens", r.prompt_tokens},
          {"bytes_full", r.bytes_full},
          {"bytes_kept", r.bytes_kept},
          {"first_token_ms", r.first_token_ms}};
}

EvalRecord read_record(const std::string& line, const std::string& path, std::int64_t number) {
  const Json json = Json::parse(line, nullptr, false);
  try {
    return {json.at("id"),         json.at("setting"),       json.at("task"),          json.at("answer"),
            json.at("expected"),   json.at("correct"),       json.at("prompt_tokens"), json.at("bytes_full"),
            json.at("bytes_kept"), json.at("first_token_ms")};
  } catch (const nlohmann::json::exception&) {
    fail(ErrorKind::kInput, "line {} of {} is no record of eval; name another --out", number, path);
  }
}

[[noreturn]] void fail_file(const std::string& path) {
  fail(ErrorKind::kResource, "cannot write {}: {}; free some space or name another --out", path, std::strerror(errno));
}

}  // namespace

std::string trim(const std::string& text) {
  constexpr const char* kBlanks = " \t\r\n\v\f";
  const std::size_t first = text.find_first_not_of(kBlanks);
  return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(kBlanks) - first + 1);
}

EvalRecords::EvalRecords(const std::string& path) : path_(path) {
  if (path.empty() || !std::filesystem::exists(path)) return;
  const std::string text = read_file(path, kMostBytes);
  const std::size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
  std::int64_t number = 0;
  for (std::size_t at = 0; at < whole;) {
    const std::size_t end = text.find('\n', at);
    EvalRecord record = read_record(text.substr(at, end - at), path, ++number);
    at = end + 1;
    const Key key{record.id, record.setting};
    records_.insert_or_assign(key, std::move(record));
  }
  if (whole < text.size()) std::filesystem::resize_file(path, whole);
}

EvalRecords::~EvalRecords() {
  if (file_ != nullptr) std::fclose(file_);
}

bool EvalRecords::holds(const std::string& id, const std::string& setting) const {
  return records_.contains({id, setting});
}

void EvalRecords::open_for_adding() {
  if (path_.empty()) return;
  file_ = std::fopen(path_.c_str(), "ab");
  if (file_ == nullptr) fail_file(path_);
}

void EvalRecords::add(const EvalRecord& record) {
  records_.insert_or_assign({record.id, record.setting}, record);
  if (file_ == nullptr) return;
  const std::string line = dump(record_json(record)) + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0) fail_file(path_);
}

double EvalCell::percent() const {
  return count > 0 ? 100.0 * static_cast<double>(correct) / static_cast<double>(count) : 0.0;
}

EvalTable make_table(const std::map<EvalRecords::Key, EvalRecord>& records, const std::vector<std::string>& settings) {
  EvalTable table;
  table.settings = settings;
  std::set<std::string> tasks;
  for (const auto& [key, record] : records) {
    if (std::find(settings.begin(), settings.end(), record.setting) == settings.end()) continue;
    tasks.insert(record.task);
    for (const std::string& row : {record.task, std::string(kAll)}) {
      EvalCell& cell = table.cells[{row, record.setting}];
      cell.correct += record.correct ? 1 : 0;
      ++cell.count;
      if (record.task == kAll) break;
    }
  }
  tasks.erase(kAll);
  table.tasks.assign(tasks.begin(), tasks.end());
  table.tasks.emplace_back(kAll);
  return table;
}

std::string table_text(const EvalTable& table) {
  constexpr std::string_view kTitle = "exact match, %";
  std::size_t first = kTitle.size();
  for (const std::string& task : table.tasks) first = std::max(first, task.size());
  constexpr std::size_t kLeast = 8;
  std::string text = fmt::format("{:<{}}", kTitle, first);
  for (const std::string& setting : table.settings) text += fmt::format("  {:>{}}", setting, kLeast);
  text += "\n";
  for (const std::string& task : table.tasks) {
    text += fmt::format("{:<{}}", task, first);
    for (const std::string& setting : table.settings) {
      const std::size_t width = std::max(kLeast, setting.size());
      const auto found = table.cells.find({task, setting});
      text += found == table.cells.end() ? fmt::format("  {:>{}}", "-", width)
                                         : fmt::format("  {:>{}.1f}", found->second.percent(), width);
    }
    text += "\n";
  }
  return text;
}

Json table_json(const EvalTable& table) {
  Json out = Json::object();
  for (const std::string& task : table.tasks)
    for (const std::string& setting : table.settings)
      if (const auto found = table.cells.find({task, setting}); found != table.cells.end())
        out[task][setting] = {
            {"percent", found->second.percent()}, {"correct", found->second.correct}, {"count", found->second.count}};
  return {{"schema", 1}, {"exact_match", out}};
}

}  // namespace purekv::app
