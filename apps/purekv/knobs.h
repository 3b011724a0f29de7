#pragma once

#include <CLI/CLI.hpp>
#include <set>
#include <string>
#include <vector>

namespace purekv::app {

/// A flag that nobody typed: from the environment or a configuration file.
struct Knob {
  std::string flag;    ///< "--budget"
  std::string value;   ///< of a switch "true" or "false"
  std::string origin;  ///< for messages: "PUREKV_BUDGET", or "budget in FILE"
};

/// Flags of `app` that the environment sets: PUREKV_BUDGET for --budget, PUREKV_TOP_K for --top-k. An empty
/// variable counts as absent. Other PUREKV_* variables belong to other programs and are left alone.
std::vector<Knob> environment_knobs(const CLI::App& app);

/// Flags of `app` that a TOML file of `name = value` lines sets, dashes or underscores alike. `known` holds the
/// flags of every command, so that one file serves all; another name is Error(kUsage) with file and name.
std::vector<Knob> file_knobs(const std::string& path, const CLI::App& app, const std::set<std::string>& known);

/// Adds the knobs whose flag is not in `flags` yet, as flag and value; switches as the flag alone, or not at all.
void add_knobs(const CLI::App& app, const std::vector<Knob>& knobs, std::vector<std::string>& flags);

}  // namespace purekv::app
