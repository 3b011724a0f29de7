#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <utility>

#include "choices.h"
#include "command.h"
#include "errors.h"
#include "flag_binding.h"
#include "flags.h"
#include "interrupt.h"
#include "model_path.h"
#include "output.h"
#include "purekv/tokenizer.h"
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

Json model_json(const std::string& path, const ModelSummary& model) {
  return {{"model", path},
          {"layers", model.layers},
          {"heads", model.heads},
          {"kv_heads", model.kv_heads},
          {"head_dim", model.head_dim},
          {"hidden", model.hidden},
          {"context", model.context},
          {"tokenizer", model.has_tokenizer},
          {"device", word_of(model.device, kDevices)},
          {"weight_bytes", model.weight_bytes},
          {"kv_bytes_per_token", model.kv_bytes_per_row}};
}

/// Nothing where questions can be asked in words.
std::string tokenizer_text(const std::string& path, const ModelSummary& model) {
  if (model.has_tokenizer) return "";
  return fmt::format("  tokenizer: {}; ask takes token ids only (--ids)\n",
                     Tokenizer::built_in() ? path + " has no tokenizer.json" : "not in this build (-DPUREKV_TEXT=ON)");
}

std::string model_text(const std::string& path, const ModelSummary& model) {
  return fmt::format(
      "{}\n  layers   {}\n  heads    {} query, {} KV, of {}\n  hidden   {}\n  context  {} tokens\n"
      "  weights  {}\n  KV       {} a token\n{}",
      path, model.layers, model.heads, model.kv_heads, model.head_dim, model.hidden, model.context,
      bytes_text(model.weight_bytes), bytes_text(model.kv_bytes_per_row), tokenizer_text(path, model));
}

/// One medium and what a prompt of it alone takes.
struct Measured {
  const ClipInfo& clip;
  const ModelSummary& model;
  PromptCost cost;
  [[nodiscard]] std::int64_t tokens() const { return medium_tokens(clip, model.preprocess.merge); }
  [[nodiscard]] bool fits() const { return cost.tokens <= model.context; }
};

Json clip_json(const Measured& m) {
  const ClipInfo& clip = m.clip;
  Json kv = Json::object();
  for (const int percent : kPercents) kv[fmt::format("{}%", percent)] = kept_bytes(m.model, m.tokens(), percent);
  return {{"kind", kind_word(clip.kind)},
          {"path", clip.path},
          {"frames", clip.frame_indices.size()},
          {"sample_fps", clip.sample_fps},
          {"source", {clip.source_height, clip.source_width}},
          {"resized", {clip.height, clip.width}},
          {"grid_thw", {clip.grid_t, clip.grid_h, clip.grid_w}},
          {"tokens", m.tokens()},
          {"prompt_tokens", m.cost.tokens},
          {"context", m.model.context},
          {"fits_context", m.fits()},
          {"kv_bytes", kv},
          {"device", word_of(m.model.device, kDevices)},
          {"memory_bytes", m.cost.memory_bytes}};
}

std::string clip_text(const Measured& m) {
  const ClipInfo& clip = m.clip;
  std::string text =
      fmt::format("{}\n  frames   {}\n  pixels   {}x{}, resized to {}x{}\n  grid     {}x{}x{}\n  tokens   {}\n",
                  clip.path, clip.frame_indices.size(), clip.source_height, clip.source_width, clip.height, clip.width,
                  clip.grid_t, clip.grid_h, clip.grid_w, m.tokens());
  if (!m.fits())
    text += fmt::format(
        "  too long: a prompt of {} tokens at least, the model's context is {}; lower --fps, --frames or "
        "--max-pixels\n",
        m.cost.tokens, m.model.context);
  for (const int percent : kPercents)
    text += fmt::format("  KV {:>3} %  {}\n", percent, bytes_text(kept_bytes(m.model, m.tokens(), percent)));
  const std::string_view place = m.model.device == DeviceKind::kCuda ? "of the GPU" : "on the CPU";
  return text + fmt::format("  memory   {} {} with the model, at 20 %\n", bytes_text(m.cost.memory_bytes), place);
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
    std::optional<Inspection> measure;
    Json models = Json::array();
    Json media = Json::array();
    std::string text;
    for (const std::string& path : positionals) {
      if (!is_model(path)) continue;
      Inspection inspection(engine_options(engine_, path));
      models.push_back(model_json(path, inspection.model()));
      text += model_text(path, inspection.model());
      if (!measure && !engine_.model) measure = std::move(inspection);
    }
    if (models.size() < positionals.size() && !measure) {
      const std::string folder = find_model(engine_.model).directory;
      measure.emplace(engine_options(engine_, folder));
      if (!json_) text += tokenizer_text(folder, measure->model());
    }
    const AskOptions options = preset_options("purekv");
    for (const std::string& path : positionals) {
      if (is_model(path)) continue;
      const ModelSummary& model = measure->model();
      const ClipInfo clip = open_media(path, media_, model.preprocess)->info();
      const Measured measured{clip, model, measure->cost({clip}, options)};
      media.push_back(clip_json(measured));
      text += clip_text(measured);
      check_interrupt();
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
