#include "engine/prompt.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr std::string_view kDefaultSystem = "You are a helpful assistant.";

/// Collects the template: text waits until a special token ends its string.
class TemplateWriter {
 public:
  explicit TemplateWriter(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  void text(std::string_view part) { pending_ += part; }
  void special(std::string_view name) {
    flush();
    const std::int32_t id = tokenizer_.added_id(name);
    if (id < 0)
      fail(ErrorKind::kInput, "tokenizer.json has no added token {}; the ChatML template of qwen2_5_vl needs it", name);
    ids_.push_back(id);
  }
  void special(std::int32_t id) {
    flush();
    ids_.push_back(id);
  }
  std::vector<std::int32_t> finish() {
    flush();
    return std::move(ids_);
  }

 private:
  void flush() {
    if (pending_.empty()) return;
    const auto ids = tokenizer_.encode(pending_, false);
    ids_.insert(ids_.end(), ids.begin(), ids.end());
    pending_.clear();
  }

  const Tokenizer& tokenizer_;
  std::string pending_;
  std::vector<std::int32_t> ids_;
};

std::vector<std::int32_t> render_template(const ModelConfig& config, const Tokenizer& tokenizer,
                                          const PromptParts& parts) {
  TemplateWriter out(tokenizer);
  out.special("<|im_start|>");
  out.text("system\n");
  out.text(parts.system ? std::string_view(*parts.system) : kDefaultSystem);
  out.special("<|im_end|>");
  out.text("\n");
  out.special("<|im_start|>");
  out.text("user\n");
  for (const ClipInfo& clip : parts.media) {
    out.special(config.ids.vision_start);
    out.special(clip.kind == MediaKind::kImage ? config.ids.image_pad : config.ids.video_pad);
    out.special(config.ids.vision_end);
  }
  out.text(parts.question);
  out.special("<|im_end|>");
  out.text("\n");
  out.special("<|im_start|>");
  out.text("assistant\n");
  return out.finish();
}

PositionRun vision_run(const ClipInfo& clip, const VisionConfig& vision) {
  PositionRun run;
  run.grid_t = clip.grid_t;
  run.grid_h = clip.grid_h / vision.merge;
  run.grid_w = clip.grid_w / vision.merge;
  if (clip.kind != MediaKind::kImage)
    run.second_per_grid = static_cast<double>(vision.temporal_patch) / clip.sample_fps;
  return run;
}

/// `given`: by the caller, not by tokenizer.json.
void check_ids(const ModelConfig& config, const std::vector<std::int32_t>& ids, bool given) {
  const std::int64_t vocab = config.text.vocab;
  for (const std::int32_t id : ids) {
    if (id >= 0 && id < vocab) continue;
    if (given)
      fail(ErrorKind::kInput,
           "the prompt's ids hold {}, the model's vocabulary has {} rows; give ids from 0 to {}, as this model's own "
           "tokenizer makes them",
           id, vocab, vocab - 1);
    fail(ErrorKind::kInput,
         "token id {} is outside the model's vocabulary of {} rows; tokenizer.json and config.json do not belong "
         "together",
         id, vocab);
  }
}

void check_length(const ModelConfig& config, std::int64_t rows) {
  if (rows > config.text.context)
    fail(ErrorKind::kInput,
         "the prompt takes {} tokens, the model's context is {}; lower --fps, --frames, --max-pixels or the question's "
         "length",
         rows, config.text.context);
}

/// The prompt's ids before pads are repeated.
std::vector<std::int32_t> collapsed_ids(const ModelConfig& config, const Tokenizer* tokenizer,
                                        const PromptParts& parts) {
  if (!parts.media.empty() && !config.has_vision)
    fail(ErrorKind::kInput, "{} media given, but the model has no vision tower; ask without media", parts.media.size());
  if (parts.ids.empty() && tokenizer == nullptr)
    fail(ErrorKind::kInput,
         "there is no tokenizer (tokenizer.json in the model directory, in a build with -DPUREKV_TEXT=ON); add it, or "
         "give "
         "token ids");
  return parts.ids.empty() ? render_template(config, *tokenizer, parts) : parts.ids;
}

/// Rows once every pad is repeated.
std::int64_t expanded_rows(const ModelConfig& config, const std::vector<std::int32_t>& ids,
                           const std::vector<ClipInfo>& media) {
  auto rows = static_cast<std::int64_t>(ids.size() - std::min(ids.size(), media.size()));
  for (const ClipInfo& clip : media) rows += visual_rows(clip, config.vision);
  return rows;
}

bool is_pad(const ModelConfig& config, std::int32_t id) {
  return id == config.ids.image_pad || id == config.ids.video_pad;
}

/// Adds the frames of a medium whose first row is `start`; returns the row after its last.
std::int32_t add_frames(std::vector<FrameSpan>& frames, std::int32_t start, std::int32_t clip, const PositionRun& run) {
  for (std::int32_t f = 0; f < static_cast<std::int32_t>(run.grid_t); ++f) {
    frames.push_back({start, clip, f, static_cast<std::int32_t>(run.grid_h), static_cast<std::int32_t>(run.grid_w)});
    start += frames.back().rows();
  }
  return start;
}

/// Everything of a prompt but its ids grows with the expansion of the pads.
class Expansion {
 public:
  explicit Expansion(const ModelConfig& config) : config_(config) {}

  void text(std::int32_t id) {
    ++text_run_;
    prompt_.ids.push_back(id);
  }
  void medium(const ClipInfo& clip, std::int32_t pad) {
    end_text();
    const PositionRun run = vision_run(clip, config_.vision);
    const auto clip_index = static_cast<std::int32_t>(prompt_.media_start.size());
    const auto start = static_cast<std::int32_t>(prompt_.ids.size());
    prompt_.media_start.push_back(start);
    prompt_.ids.resize(static_cast<std::size_t>(add_frames(frames_, start, clip_index, run)), pad);
    runs_.push_back(run);
  }
  Prompt finish() {
    end_text();
    prompt_.positions = make_positions(runs_, config_.vision.tokens_per_second);
    prompt_.table = make_frame_table(static_cast<std::int32_t>(prompt_.ids.size()), std::move(frames_));
    return std::move(prompt_);
  }

 private:
  void end_text() {
    if (text_run_ > 0) runs_.push_back({.text = text_run_});
    text_run_ = 0;
  }

  const ModelConfig& config_;
  Prompt prompt_;
  std::vector<PositionRun> runs_;
  std::vector<FrameSpan> frames_;
  std::int64_t text_run_ = 0;
};

}  // namespace

std::int64_t visual_rows(const ClipInfo& clip, const VisionConfig& vision) {
  return static_cast<std::int64_t>(clip.grid_t) * (clip.grid_h / vision.merge) * (clip.grid_w / vision.merge);
}

Prompt make_prompt(const ModelConfig& config, const Tokenizer* tokenizer, const PromptParts& parts) {
  const std::vector<std::int32_t> ids = collapsed_ids(config, tokenizer, parts);
  check_ids(config, ids, !parts.ids.empty());
  check_length(config, expanded_rows(config, ids, parts.media));
  Expansion expansion(config);
  std::size_t next = 0;
  for (const std::int32_t id : ids) {
    if (!is_pad(config, id)) {
      expansion.text(id);
    } else {
      if (next == parts.media.size())
        fail(ErrorKind::kInput, "the prompt's ids hold more than {} pad ids, but {} media were given", next, next);
      expansion.medium(parts.media[next++], id);
    }
  }
  if (next != parts.media.size())
    fail(ErrorKind::kInput, "the prompt's ids hold {} pad ids, but {} media were given", next, parts.media.size());
  return expansion.finish();
}

FrameTable outline_prompt(const ModelConfig& config, const Tokenizer* tokenizer, const PromptParts& parts) {
  const std::vector<std::int32_t> ids = collapsed_ids(config, tokenizer, parts);
  check_ids(config, ids, !parts.ids.empty());
  const std::int64_t rows = expanded_rows(config, ids, parts.media);
  if (rows > std::numeric_limits<std::int32_t>::max())
    fail(ErrorKind::kInput,
         "the prompt takes {} tokens, more than any model reads; lower --fps, --frames or --max-pixels", rows);
  FrameTable table;
  table.rows = static_cast<std::int32_t>(rows);
  std::int32_t at = 0;
  std::int32_t next = 0;
  for (const std::int32_t id : ids) {
    if (!is_pad(config, id) || next == static_cast<std::int32_t>(parts.media.size())) {
      ++at;
      continue;
    }
    if (next == 0) table.prefix = at;
    const ClipInfo& clip = parts.media[static_cast<std::size_t>(next)];
    at = add_frames(table.frames, at, next++, vision_run(clip, config.vision));
    table.question_start = at;
  }
  if (next == 0) table.prefix = table.question_start = table.rows;
  return table;
}

}  // namespace purekv
