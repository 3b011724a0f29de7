#include "engine/generation.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "device/memory.h"
#include "device/transfer.h"
#include "engine/sampler.h"
#include "model/decode_session.h"
#include "model/decoder.h"
#include "sparse/plan.h"

namespace purekv {
namespace {

/// What `rows` rows of the residual stream take.
std::int64_t hidden_bytes(const LoadedModel& model, std::int64_t rows) {
  return rows * model.config.text.hidden * static_cast<std::int64_t>(size_of(model.context.activation()));
}

/// Rows that follow each other, float32 or bf16, as a trace holds them.
std::vector<float> to_host_floats(const Context& context, const ConstMatrixView& rows) {
  const std::int64_t count = rows.rows * rows.cols;
  if (rows.dtype == DType::kF32) return to_host<float>(context, rows.data, count);
  std::vector<float> floats;
  floats.reserve(static_cast<std::size_t>(count));
  for (const BFloat16 x : to_host<BFloat16>(context, rows.data, count)) floats.push_back(to_float(x));
  return floats;
}

}  // namespace

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
  answer_.prefill_chunk = resolve_chunk(model_.context, options_);
  const std::int64_t bytes = prompt_bytes(model_.context, model_.config, parts.media, prompt_.table, options_,
                                          model_.language.layers.front().gate.weight.dtype);
  require_bytes(model_.context, bytes, "this prompt", "lower --frames, --fps, --max-pixels or --budget");
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
  hidden_ = Matrix(model_.context, model_.context.activation(), answer_.prompt_tokens, text.hidden);
  decoder.embed(prompt_.ids, hidden_.view());
  if (question_.encoded != nullptr)
    copy_encoded(*question_.encoded);
  else
    encode_sources();
  if (!trace_.on()) return;
  NpyWriter vision(trace_.path("vision"), "<f4", {answer_.video_tokens, text.hidden});
  for (const FrameSpan& frame : prompt_.table.frames) {
    const auto rows = to_host_floats(model_.context, hidden_.slice(frame.start, frame.rows()));
    vision.write(rows.data(), static_cast<std::int64_t>(rows.size() * sizeof(float)));
  }
  vision.finish();
}

void Generation::copy_encoded(const EncodedMedia& encoded) {
  std::int64_t first = 0;
  for (std::size_t i = 0; i < encoded.media.size(); ++i) {
    const std::int64_t count = visual_rows(encoded.media[i], model_.config.vision);
    copy_bytes(model_.context, hidden_.slice(prompt_.media_start[i], count).data, encoded.rows.slice(first, count).data,
               hidden_bytes(model_, count));
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
  const RopeTable rope = make_rope_table(model_.context, text, prompt_.positions);
  const std::int32_t block_rows = plan_block_rows(model_.context);
  const AttentionPlan dense = make_plan(prompt_.table, {.block_rows = block_rows});
  AttentionPlan sparse;
  const AttentionOptions& attention = options_.attention;
  const bool is_sparse = attention.pattern != Pattern::kDense && answer_.sparse_from < text.layers;
  if (is_sparse)
    sparse = make_plan(prompt_.table, {.pattern = attention.pattern,
                                       .local_window = attention.local_window,
                                       .atrous_rate = attention.atrous_rate,
                                       .block_rows = block_rows});
  Prefill prefill(decoder, cache_,
                  {.hidden = hidden_.view(),
                   .rope = &rope,
                   .table = &prompt_.table,
                   .dense = &dense,
                   .sparse = is_sparse ? &sparse : nullptr,
                   .sparse_from = answer_.sparse_from,
                   .chunk = answer_.prefill_chunk,
                   .all_rows = trace_.on(),
                   .stop = progress_.stop});
  trace_rows("hidden", 0);
  while (!prefill.done()) {
    prefill.step([this](const Observation& observation) { return choose(observation); }, selector_->needs_lse());
    trace_rows("hidden", prefill.layer());
    step("prefill", prefill.layer(), text.layers);
  }
  logits_ = Matrix(model_.context, DType::kF32, 1, text.vocab);
  prefill.last_logits(logits_.view());
  synchronize(model_.context);
  hidden_ = Matrix();
  answer_.time_ms.prefill = ms_since(begin);
}

void Generation::trace_rows(std::string_view name, std::int64_t layer) const {
  if (!trace_.on()) return;
  const std::int64_t hidden = model_.config.text.hidden;
  const auto rows = to_host_floats(model_.context, hidden_.view());
  trace_.layer_floats(name, layer, rows.data(), {answer_.prompt_tokens, hidden});
}

void Generation::keep_logits(const ConstMatrixView& logits) {
  if (!trace_.on()) return;
  const auto row = to_host<float>(model_.context, logits.data, model_.config.text.vocab);
  logit_rows_.insert(logit_rows_.end(), row.begin(), row.end());
}

/// Takes an id into the answer; false: it was the last.
bool Generation::emit(std::int32_t id, Utf8Stream& stream) {
  const auto& eos = model_.config.generation.eos;
  answer_.output_ids.push_back(id);
  answer_.stopped = !options_.generation.ignore_eos && std::find(eos.begin(), eos.end(), id) != eos.end();
  if (answer_.stopped) return false;
  if (progress_.text && model_.tokenizer) {
    const std::string whole = stream.push(model_.tokenizer->bytes_of(id));
    if (!whole.empty()) progress_.text(whole);
  }
  const auto count = static_cast<std::int64_t>(answer_.output_ids.size());
  return count < options_.generation.max_tokens && answer_.prompt_tokens + count < model_.config.text.context;
}

void Generation::decode() {
  const TextConfig& text = model_.config.text;
  const Decoder decoder(model_.context, text, model_.language);
  Sampler sampler(model_.context, text.vocab, options_.generation, model_.config.generation, model_.directory);
  answer_.generation = sampler.effective(options_.generation);
  sampler.observe(prompt_.ids);
  DecodeSession session(decoder, {&cache_}, std::array{prompt_.positions.next});
  session.after_logits([&] { sampler.choose(session.logits(), session.ids()); });
  Utf8Stream stream;
  sampler.draw();
  sampler.choose(logits_.view(), session.ids());
  std::int32_t id = sampler.read(session.ids());
  keep_logits(logits_.view());
  answer_.time_ms.first_token = ms_since(begin_);
  const auto first = Clock::now();
  auto token = static_cast<std::int32_t>(answer_.prompt_tokens);
  while (emit(id, stream)) {
    check_stop("decoding");
    sampler.draw();
    session.step(std::array{token++});
    id = sampler.read(session.ids());
    keep_logits(session.logits());
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
    auto& kept = answer_.kv.rows_kept.emplace_back();
    for (std::int64_t head = 0; head < text.heads.kv_heads; ++head) kept.push_back(cache_.rows(layer, head));
    if (!trace_.on()) continue;
    std::vector<std::vector<std::int32_t>> keep;
    for (std::int64_t head = 0; head < text.heads.kv_heads; ++head) keep.push_back(cache_.tokens(layer, head));
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
