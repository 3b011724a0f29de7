#include "model/config.h"

#include <sys/stat.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/fail.h"
#include "model/json_fields.h"

namespace purekv {
namespace {

using nlohmann::json;

constexpr std::size_t kMaxConfigBytes = 16U << 20U;
constexpr std::int64_t kMaxInt32 = std::numeric_limits<std::int32_t>::max();

// Several times the largest published model. With them, no product of two sizes and an element size
// comes near 2^63, so nothing that is sized by a config can wrap.
constexpr IntegerRange kLayers = {1, 1024};
constexpr IntegerRange kHeads = {1, 1024};
constexpr IntegerRange kHeadDim = {2, 1024};
constexpr IntegerRange kHidden = {2, 1 << 17};
constexpr IntegerRange kFfn = {1, 1 << 20};
constexpr IntegerRange kVocab = {1, 1 << 22};
constexpr IntegerRange kContext = {1, 1 << 24};
constexpr IntegerRange kPixels = {1, 1LL << 40};

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

json read_json(const std::string& path) {
  return parse_json_object(read_small_file(path, kMaxConfigBytes), printable(path, 1000), {});
}

void require_silu(const JsonFields& fields) {
  if (fields.text_or("hidden_act", "silu") != "silu") fields.refuse("hidden_act", "only \"silu\" is supported");
}

void read_rope(const JsonFields& fields, bool multimodal, TextConfig& text) {
  constexpr NumberRange kTheta = {1.0, 1e12};
  text.rope_theta = fields.number_or("rope_theta", text.rope_theta, kTheta);
  const std::int64_t half = text.heads.head_dim / 2;
  if (!multimodal) text.mrope_section = {half, 0, 0};
  // transformers 4 writes rope_scaling, 5 rope_parameters; where both stand, it lets rope_scaling win.
  const char* name = fields.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  if (fields.has(name)) {
    const JsonFields rope = fields.object(name);
    for (const char* key : {"type", "rope_type"}) {
      const std::string type = rope.text_or(key, "default");
      if (type != "default" && !(multimodal && type == "mrope"))
        rope.refuse(key, "only \"default\" and \"mrope\" are supported");
    }
    text.rope_theta = rope.number_or("rope_theta", text.rope_theta, kTheta);
    if (multimodal && rope.has("mrope_section")) {
      const auto section = rope.integers("mrope_section", {0, kHeadDim.high}, 3);
      if (section.size() != 3) rope.refuse("mrope_section", "use three integers");
      std::copy(section.begin(), section.end(), text.mrope_section.begin());
    }
  }
  const auto& s = text.mrope_section;
  if (s[0] + s[1] + s[2] != half)
    fail(ErrorKind::kInput, "{}: mrope_section [{}, {}, {}] sums to {}: use sections that sum to head_dim / 2 = {}",
         fields.place(), s[0], s[1], s[2], s[0] + s[1] + s[2], half);
}

void refuse_sliding_window(const JsonFields& fields) {
  constexpr const char* kRemedy = "sliding-window attention is not supported; use a checkpoint without it";
  if (fields.flag_or("use_sliding_window", false)) fields.refuse("use_sliding_window", kRemedy);
  if (!fields.has("layer_types")) return;
  for (const std::string& type : fields.texts("layer_types", static_cast<std::size_t>(kLayers.high)))
    if (type != "full_attention") fields.refuse("layer_types", kRemedy);
}

TextConfig read_text(const JsonFields& fields, bool multimodal) {
  TextConfig text;
  text.hidden = fields.integer("hidden_size", kHidden);
  text.layers = fields.integer("num_hidden_layers", kLayers);
  text.ffn = fields.integer("intermediate_size", kFfn);
  text.vocab = fields.integer("vocab_size", kVocab);
  text.heads.heads = fields.integer("num_attention_heads", kHeads);
  text.heads.kv_heads = fields.integer("num_key_value_heads", kHeads);
  if (text.heads.heads % text.heads.kv_heads != 0)
    fields.refuse("num_key_value_heads",
                  fmt::format("use a number that divides num_attention_heads = {}", text.heads.heads));
  if (!fields.has("head_dim") && text.hidden % text.heads.heads != 0)
    fields.refuse("num_attention_heads", fmt::format("use a number that divides hidden_size = {}", text.hidden));
  text.heads.head_dim = fields.integer_or("head_dim", text.hidden / text.heads.heads, kHeadDim);
  if (text.heads.head_dim < kHeadDim.low || text.heads.head_dim > kHeadDim.high || text.heads.head_dim % 2 != 0)
    fail(ErrorKind::kInput, "{}: head_dim is {}: use sizes that give an even number from {} to {}", fields.place(),
         text.heads.head_dim, kHeadDim.low, kHeadDim.high);
  text.rms_eps = static_cast<float>(fields.number_or("rms_norm_eps", 1e-6, {1e-12, 1.0}));
  text.context = fields.integer_or("max_position_embeddings", text.context, kContext);
  require_silu(fields);
  refuse_sliding_window(fields);
  read_rope(fields, multimodal, text);
  return text;
}

/// `in_channels` and `in_chans` name the same thing, and both may stand.
void require_three_channels(const JsonFields& fields) {
  for (const char* name : {"in_channels", "in_chans"})
    if (fields.integer_or(name, 3, {1, 64}) != 3) fields.refuse(name, "only 3 (RGB) is supported");
}

void check_vision(const JsonFields& fields, const VisionConfig& vision) {
  if (vision.hidden % vision.heads != 0)
    fields.refuse("num_heads", fmt::format("use a number that divides hidden_size = {}", vision.hidden));
  if (vision.hidden / vision.heads % 4 != 0)
    fields.refuse("num_heads", fmt::format("hidden_size / num_heads = {} must be a multiple of 4 for the 2-D rotary",
                                           vision.hidden / vision.heads));
  const std::int64_t cell = vision.patch * vision.merge;
  if (vision.window % cell != 0 || vision.window < cell)
    fields.refuse("window_size", fmt::format("use a multiple of patch_size x spatial_merge_size = {}", cell));
}

VisionConfig read_vision(const JsonFields& fields, const TextConfig& text) {
  VisionConfig vision;
  vision.depth = fields.integer_or("depth", vision.depth, {1, 512});
  vision.hidden = fields.integer_or("hidden_size", vision.hidden, {4, 1 << 15});
  vision.heads = fields.integer_or("num_heads", vision.heads, {1, 512});
  vision.ffn = fields.integer_or("intermediate_size", vision.ffn, {1, 1 << 18});
  vision.out_hidden = fields.integer_or("out_hidden_size", text.hidden, kHidden);
  if (vision.out_hidden != text.hidden)
    fields.refuse("out_hidden_size", fmt::format("use the language model's hidden_size = {}", text.hidden));
  vision.patch = fields.integer_or("patch_size", vision.patch, {1, 128});
  vision.merge = fields.integer_or("spatial_merge_size", vision.merge, {1, 8});
  vision.temporal_patch = fields.integer_or("temporal_patch_size", vision.temporal_patch, {1, 64});
  if (vision.temporal_patch != 2) fields.refuse("temporal_patch_size", "only 2 is supported");
  vision.window = fields.integer_or("window_size", vision.window, {1, 1 << 16});
  vision.tokens_per_second = fields.number_or("tokens_per_second", vision.tokens_per_second, {1e-3, 1e4});
  require_three_channels(fields);
  require_silu(fields);
  if (fields.has("fullatt_block_indexes"))
    vision.full_layers = fields.integers("fullatt_block_indexes", {0, vision.depth - 1}, 512);
  else
    std::erase_if(vision.full_layers, [&](std::int64_t layer) { return layer >= vision.depth; });
  check_vision(fields, vision);
  return vision;
}

SpecialIds read_ids(const JsonFields& fields, std::int64_t vocab) {
  SpecialIds ids;
  const auto read = [&](const char* name, std::int32_t absent) {
    const std::int64_t id = fields.integer_or(name, absent, {0, vocab - 1});
    if (id >= vocab) fields.refuse(name, fmt::format("its default {} is not below vocab_size {}", absent, vocab));
    return static_cast<std::int32_t>(id);
  };
  ids.image_pad = read("image_token_id", ids.image_pad);
  ids.video_pad = read("video_token_id", ids.video_pad);
  ids.vision_start = read("vision_start_token_id", ids.vision_start);
  ids.vision_end = read("vision_end_token_id", ids.vision_end);
  if (ids.image_pad == ids.video_pad) fields.refuse("video_token_id", "image_token_id is the same: use two ids");
  return ids;
}

std::vector<std::int32_t> read_eos(const JsonFields& fields) {
  const auto wide = fields.integers("eos_token_id", {0, kMaxInt32}, 256);
  std::vector<std::int32_t> eos;
  eos.reserve(wide.size());
  for (const std::int64_t id : wide) eos.push_back(static_cast<std::int32_t>(id));
  return eos;
}

void read_generation(const JsonFields& fields, GenerationDefaults& generation) {
  if (fields.has("eos_token_id")) generation.eos = read_eos(fields);
  generation.do_sample = fields.flag_or("do_sample", generation.do_sample);
  generation.temperature = fields.number_or("temperature", generation.temperature, {0.0, 1e3});
  generation.top_p = fields.number_or("top_p", generation.top_p, {0.0, 1.0});
  generation.top_k = fields.integer_or("top_k", generation.top_k, {0, kMaxInt32});
  generation.repetition_penalty = fields.number_or("repetition_penalty", generation.repetition_penalty, {1e-3, 1e3});
}

struct PixelLimits {
  std::int64_t low, high;
};

/// min_pixels and max_pixels, or the same under `size`; the former win where both stand, as in transformers.
PixelLimits read_limits(const JsonFields& fields, PixelLimits limits, std::int64_t cell) {
  if (fields.has("size")) {
    const JsonFields size = fields.object("size");
    limits.low = size.integer_or("shortest_edge", limits.low, kPixels);
    limits.high = size.integer_or("longest_edge", limits.high, kPixels);
  }
  limits.low = fields.integer_or("min_pixels", limits.low, kPixels);
  limits.high = fields.integer_or("max_pixels", limits.high, kPixels);
  if (limits.low > limits.high)
    fail(ErrorKind::kInput, "{}: min_pixels {} is above max_pixels {}: use min_pixels <= max_pixels", fields.place(),
         limits.low, limits.high);
  if (limits.high < cell * cell)
    fail(ErrorKind::kInput, "{}: max_pixels is {}: use at least one merged cell, {}", fields.place(), limits.high,
         cell * cell);
  return limits;
}

/// The sizes must be the tower's: pixels cut to another grid would run, and answer nonsense.
void check_patch_sizes(const JsonFields& fields, const VisionConfig& vision) {
  const auto same = [&](const char* name, std::int64_t tower) {
    if (fields.integer_or(name, tower, {1, 1 << 16}) != tower)
      fields.refuse(name, fmt::format("vision_config of config.json says {}", tower));
  };
  same("patch_size", vision.patch);
  same("merge_size", vision.merge);
  same("temporal_patch_size", vision.temporal_patch);
}

void read_pixels(const JsonFields& fields, PreprocessConfig& preprocess) {
  for (const char* step : {"do_rescale", "do_normalize"})
    if (!fields.flag_or(step, true)) fields.refuse(step, "only true is supported");
  preprocess.rescale = static_cast<float>(fields.number_or("rescale_factor", preprocess.rescale, {1e-6, 1e3}));
  const auto read = [&](const char* name, std::array<float, 3>& out, NumberRange range) {
    if (!fields.has(name)) return;
    const std::vector<double> values = fields.numbers(name, range, 3);
    std::transform(values.begin(), values.end(), out.begin(), [](double x) { return static_cast<float>(x); });
  };
  read("image_mean", preprocess.mean, {-1e3, 1e3});
  read("image_std", preprocess.std, {1e-6, 1e3});
}

void read_preprocessors(const std::string& model_dir, const VisionConfig& vision, PreprocessConfig& preprocess) {
  preprocess.patch = static_cast<int>(vision.patch);
  preprocess.merge = static_cast<int>(vision.merge);
  preprocess.temporal_patch = static_cast<int>(vision.temporal_patch);
  const std::int64_t cell = vision.patch * vision.merge;
  const std::string image_path = model_dir + "/preprocessor_config.json";
  const std::string video_path = model_dir + "/video_preprocessor_config.json";
  if (exists(image_path)) {
    const json root = read_json(image_path);
    const JsonFields fields(root, printable(image_path, 1000));
    check_patch_sizes(fields, vision);
    const auto limits = read_limits(fields, {preprocess.image_min_pixels, preprocess.image_max_pixels}, cell);
    preprocess.image_min_pixels = limits.low;
    preprocess.image_max_pixels = limits.high;
    read_pixels(fields, preprocess);
  }
  if (!exists(video_path)) return;
  const json root = read_json(video_path);
  const JsonFields fields(root, printable(video_path, 1000));
  check_patch_sizes(fields, vision);
  const auto limits = read_limits(fields, {preprocess.video_min_pixels, preprocess.video_max_pixels}, cell);
  preprocess.video_min_pixels = limits.low;
  preprocess.video_max_pixels = limits.high;
  PreprocessConfig video = preprocess;
  read_pixels(fields, video);
  if (exists(image_path) &&
      (video.mean != preprocess.mean || video.std != preprocess.std || video.rescale != preprocess.rescale))
    fail(ErrorKind::kInput, "{}: image_mean, image_std or rescale_factor differ from {}: use the same in both",
         fields.place(), printable(image_path, 1000));
  preprocess = video;
}

}  // namespace

ModelConfig load_config(const std::string& model_dir) {
  const std::string path = model_dir + "/config.json";
  const json root = read_json(path);
  const JsonFields fields(root, printable(path, 1000));
  ModelConfig config;
  config.model_type = fields.text_or("model_type", "");
  if (config.model_type != "qwen2_5_vl" && config.model_type != "qwen2")
    fields.refuse("model_type", "use a checkpoint of type \"qwen2_5_vl\" or \"qwen2\"");
  if (fields.has("quantization_config"))
    fields.refuse("quantization_config", "quantized weights are not supported; use the F32, BF16 or F16 checkpoint");
  const bool multimodal = config.model_type == "qwen2_5_vl";
  const JsonFields text = fields.has("text_config") ? fields.object("text_config") : fields;
  config.text = read_text(text, multimodal);
  // Either place ties, as in transformers: releases before 5 wrote it inside text_config only.
  config.text.tied = fields.flag_or("tie_word_embeddings", false) || text.flag_or("tie_word_embeddings", false);
  config.has_vision = multimodal && fields.has("vision_config");
  if (config.has_vision) {
    config.vision = read_vision(fields.object("vision_config"), config.text);
    config.ids = read_ids(fields, config.text.vocab);
    read_preprocessors(model_dir, config.vision, config.preprocess);
  }
  // Without generation_config.json the ids of config.json count, then the family's own.
  for (const JsonFields& place : {fields, text})
    if (place.has("eos_token_id")) config.generation.eos = read_eos(place);
  const std::string generation_path = model_dir + "/generation_config.json";
  if (exists(generation_path)) {
    const json generation = read_json(generation_path);
    read_generation({generation, printable(generation_path, 1000)}, config.generation);
  }
  return config;
}

}  // namespace purekv
