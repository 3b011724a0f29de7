#include "settings_json.h"

#include "choices.h"

namespace purekv::app {
namespace {

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

void add_media(Json& out, const MediaOptions& media) {
  constexpr double kFps = 2.0;
  constexpr std::int64_t kTotalPixels = 90316800;
  out["fps"] = media.frames ? Json(nullptr) : Json(media.fps.value_or(kFps));
  out["frames"] = or_null(media.frames);
  out["frame_rate"] = media.frame_rate;
  out["min_pixels"] = or_null(media.min_pixels);
  out["max_pixels"] = or_null(media.max_pixels);
  out["total_pixels"] = media.total_pixels.value_or(kTotalPixels);
  out["start"] = media.start.value_or(0.0);
  out["end"] = or_null(media.end);
}

/// As the sampler used them: the flags, else generation_config.json, else its defaults.
void add_generation(Json& out, const GenerationOptions& generation) {
  out["max_tokens"] = generation.max_tokens;
  out["temp"] = or_null(generation.temperature);
  out["top_p"] = or_null(generation.top_p);
  out["top_k"] = or_null(generation.top_k);
  out["seed"] = generation.seed;
  out["repetition_penalty"] = or_null(generation.repetition_penalty);
  out["ignore_eos"] = generation.ignore_eos;
}

void add_compression(Json& out, const CompressionOptions& compression, const Answer& answer) {
  out["method"] = word_of(compression.method, kMethods);
  out["budget"] = budget_json(compression.budget);
  out["budget_base"] = word_of(compression.budget_base, kBudgetBases);
  out["budget_rows"] = answer.budget_rows;
  out["window"] = answer.window;
  out["window_limit"] = compression.window;
  out["sinks"] = compression.sinks;
  out["score"] = word_of(compression.score, kScores);
  out["clie_layer"] = compression.clie_layer;
  out["row_reduce"] = word_of(compression.row_reduce, kRowReduces);
  out["gqa_reduce"] = word_of(compression.gqa_reduce, kGqaReduces);
  out["vnorm"] = word_of(compression.vnorm, kValueNorms);
}

void add_attention(Json& out, const AttentionOptions& attention, const Answer& answer) {
  const auto or_unused = [](std::int64_t value) { return value > 0 ? Json(value) : Json(nullptr); };
  out["attention"] = word_of(attention.pattern, kPatterns);
  out["sparse_from"] = answer.sparse_from;
  out["local_window"] = or_unused(attention.local_window);
  out["atrous_rate"] = or_unused(attention.atrous_rate);
}

Json medium_json(const ClipInfo& clip) {
  return {{"kind", kind_word(clip.kind)},         {"path", clip.path},
          {"frame_indices", clip.frame_indices},  {"sample_fps", clip.sample_fps},
          {"resized", {clip.height, clip.width}}, {"grid_thw", {clip.grid_t, clip.grid_h, clip.grid_w}}};
}

Json time_json(const Timing& time) {
  return {{"load", time.load},
          {"media", time.media},
          {"vision", time.vision},
          {"prefill", time.prefill},
          {"first_token", time.first_token},
          {"per_token", time.per_token}};
}

}  // namespace

std::string_view kind_word(MediaKind kind) {
  constexpr std::array<std::string_view, 3> kWords = {"video", "image", "frames"};
  return kWords.at(static_cast<std::size_t>(kind));
}

std::string dump(const Json& json, int indent) { return json.dump(indent, ' ', false, Json::error_handler_t::replace); }

std::string budget_text(const Budget& budget) {
  return budget.is_percent ? fmt::format("{}%", budget.percent) : fmt::format("{}", budget.rows);
}

Json budget_json(const Budget& budget) { return budget.is_percent ? Json(budget_text(budget)) : Json(budget.rows); }

Json settings_json(const Settings& settings, const Answer& answer) {
  const AskFlags& flags = settings.flags;
  const bool bf16 = flags.engine.compute == ComputeType::kBf16 ||
                    (flags.engine.compute == ComputeType::kDefault && settings.device == DeviceKind::kCuda);
  Json out;
  out["model"] = settings.model_dir;
  out["device"] = word_of(settings.device, kDevices);
  out["dtype"] = bf16 ? "bf16" : "f32";
  out["weights"] = word_of(flags.engine.weights, kAskWeightTypes);
  out["threads"] = answer.threads;
  add_media(out, flags.media);
  out["system"] = flags.prompt.system.value_or("You are a helpful assistant.");
  add_generation(out, answer.generation);
  out["preset"] = settings.options.preset;
  add_compression(out, settings.options.compression, answer);
  add_attention(out, settings.options.attention, answer);
  out["ids"] = settings.ids.empty() ? Json(nullptr) : Json(settings.ids);
  out["json"] = true;
  out["trace"] = settings.options.trace_dir.empty() ? Json(nullptr) : Json(settings.options.trace_dir);
  out["quiet"] = settings.quiet;
  out["prefill_chunk"] = answer.prefill_chunk;
  return out;
}

Json kv_json(const KvReport& kv) {
  return {{"bytes_full", kv.bytes_full},
          {"bytes_kept", kv.bytes_kept},
          {"bytes_peak", kv.bytes_peak},
          {"rows", kv.rows},
          {"rows_kept", kv.rows_kept}};
}

Json answer_json(const Settings& settings, const Answer& answer) {
  Json media = Json::array();
  for (const ClipInfo& clip : answer.media) media.push_back(medium_json(clip));
  Json out;
  out["schema"] = 1;
  out["answer"] = answer.text;
  out["output_ids"] = answer.output_ids;
  out["finish_reason"] = answer.stopped ? "stop" : "length";
  out["prompt"] = {{"tokens", answer.prompt_tokens}, {"video_tokens", answer.video_tokens}, {"media", media}};
  out["settings"] = settings_json(settings, answer);
  out["kv"] = kv_json(answer.kv);
  out["time_ms"] = time_json(answer.time_ms);
  out["device"] = word_of(settings.device, kDevices);
  out["version"] = PUREKV_VERSION;
  return out;
}

}  // namespace purekv::app
