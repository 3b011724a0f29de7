#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "flags.h"
#include "purekv/engine.h"

namespace purekv::app {

using Json = nlohmann::ordered_json;

/// Text for a machine: bytes that are not UTF-8 (a path may hold them) become U+FFFD.
std::string dump(const Json& json, int indent = -1);

/// Budget as its flag takes it: "20%" or a count of rows.
Json budget_json(const Budget& budget);
std::string budget_text(const Budget& budget);

/// What `settings` describes.
struct Settings {
  const AskFlags& flags;
  const AskOptions& options;  ///< after preset and flags
  std::string model_dir;
  DeviceKind device = DeviceKind::kCpu;  ///< that computed
  bool quiet = false;
  std::string ids = {};  ///< file of --ids
};

/// Every flag of ask with underscores, as given or by default; null: the model's or the clip's own.
/// `window` and `sparse_from` are the effective ones, `budget_rows` is B.
Json settings_json(const Settings& settings, const Answer& answer);

/// The whole object of `--json`.
Json answer_json(const Settings& settings, const Answer& answer);

Json kv_json(const KvReport& kv);

/// video, image or frames.
std::string_view kind_word(MediaKind kind);

}  // namespace purekv::app
