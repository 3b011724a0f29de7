#pragma once

#include <string>
#include <vector>

#include "flags.h"

namespace purekv::app {

/// One question of a manifest and the answer that counts as right.
struct EvalItem {
  std::string id, question, answer, task;
  std::vector<std::string> media;  ///< as files: relative paths already joined with the manifest's folder
};

/// Reads `{"items": [...]}` or one item a line. Throws Error(kInput) naming the file, the item and the
/// field that is missing, of another type, or an id that is there twice.
std::vector<EvalItem> read_manifest(const std::string& path);

/// One column of the table: what is asked of the engine, and its name.
struct EvalSetting {
  std::string name;
  AskOptions options;
};

/// `list` is "full,random@20%,purekv@50%,purekv-paper@10%"; empty: one setting from the flags alone.
/// Throws Error(kUsage) for an unknown name, a bad or missing budget, or a repeat.
std::vector<EvalSetting> make_settings(const std::string& list, const AskFlags& flags);

}  // namespace purekv::app
