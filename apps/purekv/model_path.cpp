#include "model_path.h"

#include <filesystem>
#include <vector>

#include "errors.h"
#include "progress.h"

namespace purekv::app {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> demo_candidates() {
  std::vector<fs::path> candidates;
  std::error_code error;
  const fs::path program = fs::read_symlink("/proc/self/exe", error);
  const fs::path folder = program.parent_path();
  if (!error) candidates.push_back(folder / "../share/purekv/demo");
  candidates.emplace_back(PUREKV_SOURCE_DEMO);
  if (!error) candidates.push_back(folder / "../../../models/demo");
  return candidates;
}

}  // namespace

ModelPath find_model(const std::optional<std::string>& given) {
  if (given) return {*given, false};
  for (const fs::path& candidate : demo_candidates()) {
    std::error_code error;
    if (fs::exists(candidate / "config.json", error)) return {candidate.lexically_normal().string(), true};
  }
  fail(ErrorKind::kInput, "no --model, and the demo model is not installed; give --model DIR or set PUREKV_MODEL");
}

void note_demo(const ModelPath& model, bool quiet) {
  if (model.is_demo && !quiet)
    print_note("the demo model answers; it knows only synthetic scenes (--model DIR for your own)");
}

}  // namespace purekv::app
