#pragma once

#include <cstdint>
#include <cstdio>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "settings_json.h"

namespace purekv::app {

/// One answer judged: a line of the results file.
struct EvalRecord {
  std::string id, setting, task, answer, expected;
  bool correct = false;
  std::int64_t prompt_tokens = 0, bytes_full = 0, bytes_kept = 0;
  double first_token_ms = 0;
};

/// Leading and trailing blanks do not count when answers are compared.
std::string trim(const std::string& text);

/// The records so far; with a path they are kept in a JSON lines file that a later run goes on from.
class EvalRecords {
 public:
  /// Reads what `path` holds ("" for no file). A last line without its newline was cut by an
  /// interruption: it is dropped. Throws Error(kInput) for another line that is no record.
  explicit EvalRecords(const std::string& path);
  ~EvalRecords();
  EvalRecords(const EvalRecords&) = delete;
  EvalRecords& operator=(const EvalRecords&) = delete;

  [[nodiscard]] bool holds(const std::string& id, const std::string& setting) const;
  /// Remembers and writes through. Throws Error(kResource) where the file cannot be written.
  void add(const EvalRecord& record);

  /// Opens the file for adding; without it `add` only remembers.
  void open_for_adding();

  using Key = std::pair<std::string, std::string>;  ///< id, setting
  [[nodiscard]] const std::map<Key, EvalRecord>& all() const { return records_; }

 private:
  std::string path_;
  std::FILE* file_ = nullptr;
  std::map<Key, EvalRecord> records_;
};

/// Right answers and items of one task (row) under one setting (column); the last row is all tasks.
struct EvalCell {
  std::int64_t correct = 0, count = 0;
  [[nodiscard]] double percent() const;
};

struct EvalTable {
  std::vector<std::string> tasks, settings;
  std::map<EvalRecords::Key, EvalCell> cells;  ///< by task, setting; task "all" sums
};

/// Counts the records of `settings` in that order.
EvalTable make_table(const std::map<EvalRecords::Key, EvalRecord>& records, const std::vector<std::string>& settings);
std::string table_text(const EvalTable& table);
Json table_json(const EvalTable& table);

}  // namespace purekv::app
