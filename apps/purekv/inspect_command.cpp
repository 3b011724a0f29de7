#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "choices.h"
#include "command.h"
#include "errors.h"
#include "flag_binding.h"
#include "flags.h"
#include "interrupt.h"
#include "model_path.h"
#include "output.h"
#include "report.h"
#include "settings_json.h"

namespace purekv::app {
namespace {

constexpr std::array<int, 5> kPercents = {100, 50, 20, 10, 5};

bool is_model(const std::string& path) {
  std::error_code error;
  return std::filesystem::exists(std::filesystem::path(path) / "config.json", error);
}

/// KV bytes of `rows` at a percentage, by the rule of --budget.
std::int64_t kept_bytes(const ModelSummary& model, std::int64_t rows, int percent) {
  constexpr double kSlack = 1e-9;
  const double share = static_cast<double>(percent) / 100.0 * static_cast<double>(rows);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(std::floor(share + kSlack))) * model.kv_bytes_per_row;
}

/// About what an answer takes at the default budget: weights as the file holds them, float32 rows of
/// the hidden stream, queries and attention output, one layer's keys and values, and the kept ones.
std::int64_t memory_needed(const ModelSummary& model, std::int64_t rows) {
  constexpr int kDefaultPercent = 20;
  constexpr std::int64_t kFloat = 4;
  const std::int64_t activations = rows * kFloat * (model.hidden + 2 * model.heads * model.head_dim);
  const std::int64_t scratch = rows * model.kv_bytes_per_row / std::max<std::int64_t>(1, model.layers);
  return model.weight_bytes + activations + scratch + kept_bytes(model, rows, kDefaultPercent);
}

Json model_json(const std::string& path, const ModelSummary& model) {
  return {{"model", path},
          {"layers", model.layers},
          {"heads", model.heads},
          {"kv_heads", model.kv_heads},
          {"head_dim", model.head_dim},
          {"hidden", model.hidden},
          {"context", model.context},
          {"weight_bytes", model.weight_bytes},
          {"kv_bytes_per_token", model.kv_bytes_per_row}};
}

std::string model_text(const std::string& path, const ModelSummary& model) {
  return fmt::format(
      "{}\n  layers   {}\n  heads    {} query, {} KV, of {}\n  hidden   {}\n  context  {} tokens\n"
      "  weights  {}\n  KV       {} a token\n",
      path, model.layers, model.heads, model.kv_heads, model.head_dim, model.hidden, model.context,
      bytes_text(model.weight_bytes), bytes_text(model.kv_bytes_per_row));
}

Json clip_json(const ClipInfo& clip, int merge, const ModelSummary& model) {
  const std::int64_t tokens = medium_tokens(clip, merge);
  Json kv = Json::object();
  for (const int percent : kPercents) kv[fmt::format("{}%", percent)] = kept_bytes(model, tokens, percent);
  return {{"path", clip.path},
          {"frames", clip.frame_indices.size()},
          {"sample_fps", clip.sample_fps},
          {"source", {clip.source_height, clip.source_width}},
          {"resized", {clip.height, clip.width}},
          {"grid_thw", {clip.grid_t, clip.grid_h, clip.grid_w}},
          {"tokens", tokens},
          {"kv_bytes", kv},
          {"memory_bytes", memory_needed(model, tokens)}};
}

std::string clip_text(const ClipInfo& clip, int merge, const ModelSummary& model) {
  const std::int64_t tokens = medium_tokens(clip, merge);
  std::string text =
      fmt::format("{}\n  frames   {}\n  pixels   {}x{}, resized to {}x{}\n  grid     {}x{}x{}\n  tokens   {}\n",
                  clip.path, clip.frame_indices.size(), clip.source_height, clip.source_width, clip.height, clip.width,
                  clip.grid_t, clip.grid_h, clip.grid_w, tokens);
  for (const int percent : kPercents)
    text += fmt::format("  KV {:>3} %  {}\n", percent, bytes_text(kept_bytes(model, tokens, percent)));
  return text + fmt::format("  memory   {} with the model, at 20 %\n", bytes_text(memory_needed(model, tokens)));
}

class InspectCommand : public Command {
 public:
  InspectCommand()
      : Command("inspect", "[FLAGS] CLIP|DIR...",
                "show what clips and models cost, without answering\n\n"
                "For each medium: frames, grid, tokens, bytes of keys and values at several budgets, and memory.\n"
                "A DIR with a config.json is a model: its sizes are shown, and the clips are measured by it.") {
    add_engine_flags(app_, engine_);
    add_media_flags(app_, media_);
    bind_switch({app_, "Output"}, "--json", "print one JSON object", json_);
  }

 private:
  void run(const std::vector<std::string>& positionals) override {
    check_media(media_);
    if (positionals.empty()) fail(ErrorKind::kUsage, "no clip or model folder given; see purekv inspect --help");
    std::optional<std::string> measure = engine_.model;
    Json models = Json::array();
    Json media = Json::array();
    std::string text;
    for (const std::string& path : positionals) {
      if (!is_model(path)) continue;
      const ModelSummary model = inspect_model(engine_options(engine_, path));
      if (!measure) measure = path;
      models.push_back(model_json(path, model));
      text += model_text(path, model);
    }
    if (models.size() < positionals.size()) {
      const ModelSummary model = inspect_model(engine_options(engine_, find_model(measure).directory));
      for (const std::string& path : positionals) {
        if (is_model(path)) continue;
        const ClipInfo clip = open_media(path, media_, model.preprocess)->info();
        media.push_back(clip_json(clip, model.preprocess.merge, model));
        text += clip_text(clip, model.preprocess.merge, model);
        check_interrupt();
      }
    }
    write_out(json_ ? dump(Json{{"models", models}, {"media", media}}) + "\n" : text);
  }

  EngineFlags engine_;
  MediaOptions media_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> make_inspect_command() { return std::make_unique<InspectCommand>(); }

}  // namespace purekv::app
