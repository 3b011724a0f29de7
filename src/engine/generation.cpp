#include "engine/generation.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "device/memory.h"
#include "engine/sampler.h"
#include "model/decoder.h"
#include "sparse/plan.h"

namespace purekv {

std::vector<ClipInfo> media_of(const Question& question) {
  if (question.encoded != nullptr && !question.media.empty())
    fail(ErrorKind::kUsage, "a question has {} media and encoded media too; give one of them", question.media.size());
  if (question.encoded != nullptr) return question.encoded->media;
  std::vector<ClipInfo> media;
  media.reserve(question.media.size());
  for (const auto& source : question.media) media.push_back(source->info());
  return media;
}

Generation::Generation(LoadedModel& model, Question question, const AskOptions& options, const Progress& progress)
    : model_(model),
      question_(std::move(question)),
      options_(options),
      progress_(progress),
      trace_(options.trace_dir),
      cache_(model.context, model.config.text.heads, model.config.text.layers),
      begin_(Clock::now()) {}

Answer Generation::run() {
  plan();
  encode_media();
  prefill();
  report_cache();
  decode();
  report_answer();
  return std::move(answer_);
}

void Generation::step(std::string_view stage, std::int64_t done, std::int64_t total) const {
  if (progress_.step) progress_.step(stage, done, total);
}

void Generation::check_stop(std::string_view stage) const {
  if (progress_.stop != nullptr && progress_.stop->load(std::memory_order_relaxed))
    fail(ErrorKind::kInterrupted, "interrupted during {}", stage);
}

void Generation::plan() {
  PromptParts parts;
  parts.media = media_of(question_);
  parts.question = question_.text;
  parts.system = options_.system;
  parts.ids = question_.ids;
  prompt_ = make_prompt(model_.config, model_.tokenizer_or_null(), parts);
  selector_ = std::make_unique<Selector>(model_.context, options_.compression, prompt_.table, score_sink());
  const auto rows = static_cast<std::int64_t>(prompt_.ids.size());
  const ResolvedBudget& budget = selector_->budget();
  // With the base on the video, text stays beside the budget.
  const bool video = options_.compression.budget_base == BudgetBase::kVideo;
  const std::int64_t text_rows = video ? rows - prompt_.table.visual_rows() : 0;
  const std::int64_t kept = budget.compress ? std::min(rows, budget.rows + text_rows) : rows;
  require_bytes(model_.context, prefill_bytes(model_.context, model_.config.text, rows, kept, options_.prefill_chunk),
                "this prompt", "lower --frames, --fps, --max-pixels or --budget");
  answer_.prompt_tokens = rows;
  answer_.threads = model_.context.threads;
  answer_.video_tokens = prompt_.table.visual_rows();
  answer_.media = std::move(parts.media);
  answer_.budget_rows = budget.rows;
  answer_.window = budget.window;
  answer_.sparse_from = resolve_sparse_from(options_, model_.config.text.layers);
  if (trace_.on() && question_.encoded != nullptr)
    fail(ErrorKind::kUsage, "a trace holds pixels, which encoded media no longer have; give the media themselves");
  trace_.prompt(prompt_, model_.config.vision, answer_.media);
}

void Generation::encode_media() {
  const TextConfig& text = model_.config.text;
  const Decoder decoder(model_.context, text, model_.language);
  hidden_ = Matrix(model_.context, DType::kF32, answer_.prompt_tokens, text.hidden);
  decoder.embed(prompt_.ids, hidden_.view());
  if (question_.encoded != nullptr)
    copy_encoded(*question_.encoded);
  else
    encode_sources();
  if (!trace_.on()) return;
  NpyWriter vision(trace_.path("vision"), "<f4", {answer_.video_tokens, text.hidden});
  for (const FrameSpan& frame : prompt_.table.frames)
    vision.write(hidden_.slice(frame.start, 1).data,
                 frame.rows() * text.hidden * static_cast<std::int64_t>(sizeof(float)));
  vision.finish();
}

void Generation::copy_encoded(const EncodedMedia& encoded) {
  std::int64_t first = 0;
  for (std::size_t i = 0; i < encoded.media.size(); ++i) {
    const std::int64_t count = visual_rows(encoded.media[i], model_.config.vision);
    std::memcpy(hidden_.view().row<float>(prompt_.media_start[i]), encoded.rows.view().row<float>(first),
                static_cast<std::size_t>(count * model_.config.text.hidden) * sizeof(float));
    first += count;
  }
}

void Generation::encode_sources() {
  std::unique_ptr<NpyWriter> pixels;
  std::int64_t patches = 0;
  for (const ClipInfo& clip : answer_.media)
    patches += static_cast<std::int64_t>(clip.grid_t) * clip.grid_h * clip.grid_w;
  const std::int64_t width = model_.config.vision.patch_values();
  if (trace_.on())
    pixels = std::make_unique<NpyWriter>(trace_.path("pixel_values"), "<f4", std::vector<std::int64_t>{patches, width});
  if (!question_.media.empty()) {
    MediaEncoder encoder(model_, progress_);
    for (std::size_t i = 0; i < question_.media.size(); ++i) {
      const std::int64_t rows = visual_rows(answer_.media[i], model_.config.vision);
      encoder.encode(*question_.media[i], hidden_.slice(prompt_.media_start[i], rows), pixels.get());
      question_.media[i].reset();
    }
    answer_.time_ms.media = encoder.media_ms();
    answer_.time_ms.vision = encoder.vision_ms();
  }
  if (pixels) pixels->finish();
}

ScoreSink Generation::score_sink() const {
  if (!trace_.on()) return {};
  return [this](std::string_view name, std::int64_t layer, const float* data, std::int64_t kv_heads,
                std::int64_t columns) {
    trace_.layer_floats(name, layer, data, {kv_heads, columns});
  };
}

std::optional<CompactionPlan> Generation::choose(const Observation& observation) {
  std::optional<KeepList> keep = selector_->select(observation);
  if (!keep) return std::nullopt;
  return CompactionPlan{std::move(*keep)};
}

void Generation::prefill() {
  const auto begin = Clock::now();
  const TextConfig& text = model_.config.text;
  const Decoder decoder(model_.context, text, model_.language);
  const RopeTable rope = make_rope_table(text, prompt_.positions);
  const AttentionPlan dense = make_plan(prompt_.table, {});
  AttentionPlan sparse;
  const AttentionOptions& attention = options_.attention;
  const bool is_sparse = attention.pattern != Pattern::kDense && answer_.sparse_from < text.layers;
  if (is_sparse)
    sparse = make_plan(
        prompt_.table,
        {.pattern = attention.pattern, .local_window = attention.local_window, .atrous_rate = attention.atrous_rate});
  Prefill prefill(decoder, cache_,
                  {.hidden = hidden_.view(),
                   .rope = &rope,
                   .table = &prompt_.table,
                   .dense = &dense,
                   .sparse = is_sparse ? &sparse : nullptr,
                   .sparse_from = answer_.sparse_from,
                   .chunk = options_.prefill_chunk,
                   .all_rows = trace_.on(),
                   .stop = progress_.stop});
  const auto* rows = static_cast<const float*>(hidden_.view().data);
  trace_.layer_floats("hidden", 0, rows, {answer_.prompt_tokens, text.hidden});
  while (!prefill.done()) {
    prefill.step([this](const Observation& observation) { return choose(observation); },
                 selector_->needs_lse(prefill.layer(), text.layers));
    trace_.layer_floats("hidden", prefill.layer(), rows, {answer_.prompt_tokens, text.hidden});
    step("prefill", prefill.layer(), text.layers);
  }
  logits_.resize(static_cast<std::size_t>(text.vocab));
  prefill.last_logits({logits_.data(), DType::kF32, 1, text.vocab, text.vocab});
  hidden_ = Matrix();
  answer_.time_ms.prefill = ms_since(begin);
}

void Generation::decode() {
  const TextConfig& text = model_.config.text;
  const Decoder decoder(model_.context, text, model_.language);
  const MatrixView logits{logits_.data(), DType::kF32, 1, text.vocab, text.vocab};
  Sampler sampler(options_.generation, model_.config.generation, model_.directory);
  answer_.generation = sampler.effective(options_.generation);
  Utf8Stream stream;
  sampler.observe(prompt_.ids);
  const auto& eos = model_.config.generation.eos;
  Clock::time_point first{};
  while (true) {
    check_stop("decoding");
    const std::int32_t id = sampler.next(logits_);
    if (trace_.on()) logit_rows_.insert(logit_rows_.end(), logits_.begin(), logits_.end());
    const auto count = static_cast<std::int32_t>(answer_.output_ids.size());
    if (count == 0) {
      answer_.time_ms.first_token = ms_since(begin_);
      first = Clock::now();
    }
    answer_.output_ids.push_back(id);
    sampler.observe({&id, 1});
    answer_.stopped = !options_.generation.ignore_eos && std::find(eos.begin(), eos.end(), id) != eos.end();
    if (answer_.stopped) break;
    if (progress_.text && model_.tokenizer) {
      const std::string whole = stream.push(model_.tokenizer->bytes_of(id));
      if (!whole.empty()) progress_.text(whole);
    }
    if (count + 1 >= options_.generation.max_tokens || answer_.prompt_tokens + count + 1 >= text.context) break;
    decoder.decode_step(id, prompt_.positions.next + count, static_cast<std::int32_t>(answer_.prompt_tokens) + count,
                        cache_, logits);
  }
  const std::string rest = stream.finish();
  if (progress_.text && !rest.empty()) progress_.text(rest);
  if (answer_.output_ids.size() > 1)
    answer_.time_ms.per_token = ms_since(first) / static_cast<double>(answer_.output_ids.size() - 1);
}

/// What compression left, before the first decoded row joins it.
void Generation::report_cache() {
  const TextConfig& text = model_.config.text;
  answer_.time_ms.load = model_.load_ms;
  answer_.kv.rows = answer_.prompt_tokens;
  answer_.kv.bytes_full = kv_row_bytes(model_.context, text) * answer_.prompt_tokens;
  answer_.kv.bytes_kept = cache_.bytes_used();
  for (std::int64_t layer = 0; layer < text.layers; ++layer) {
    KeepList keep;
    auto& kept = answer_.kv.rows_kept.emplace_back();
    for (std::int64_t head = 0; head < text.heads.kv_heads; ++head) {
      kept.push_back(cache_.rows(layer, head));
      const auto tokens = cache_.tokens(layer, head);
      keep.slots.emplace_back(tokens.begin(), tokens.end());
    }
    trace_.keep(layer, keep);
  }
}

void Generation::report_answer() {
  answer_.kv.bytes_peak = cache_.counter()->peak();
  if (model_.tokenizer) answer_.text = model_.tokenizer->decode(answer_.output_ids, false);
  const auto count = static_cast<std::int64_t>(answer_.output_ids.size());
  trace_.floats("logits", logit_rows_.data(), {count, model_.config.text.vocab});
  trace_.ids("output_ids", answer_.output_ids, {count});
}

}  // namespace purekv
