#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "base/shape.h"
#include "purekv/media.h"

namespace purekv {

/// The language model's sizes (docs/model.md).
struct TextConfig {
  std::int64_t hidden = 0, layers = 0, ffn = 0, vocab = 0;
  HeadShape heads;
  float rms_eps = 1e-6F;
  double rope_theta = 1e6;
  std::array<std::int64_t, 3> mrope_section = {16, 24, 24};  ///< sums to head_dim / 2
  std::int64_t context = 128000;                             ///< max_position_embeddings
  bool tied = false;
};

/// The vision tower's sizes (docs/model.md).
struct VisionConfig {
  std::int64_t depth = 32, hidden = 1280, heads = 16, ffn = 3420, out_hidden = 0;
  std::int64_t patch = 14, merge = 2, temporal_patch = 2, channels = 3;
  std::int64_t window = 112;  ///< pixels
  std::vector<std::int64_t> full_layers = {7, 15, 23, 31};
  double tokens_per_second = 2.0;
  [[nodiscard]] std::int64_t patch_values() const { return channels * temporal_patch * patch * patch; }
};

/// Token ids that the prompt needs.
struct SpecialIds {
  std::int32_t image_pad = 151655, video_pad = 151656;
  std::int32_t vision_start = 151652, vision_end = 151653;
};

/// What generation_config.json says, over the defaults where it is absent.
struct GenerationDefaults {
  std::vector<std::int32_t> eos = {151645, 151643};
  bool do_sample = false;
  double temperature = 1.0, top_p = 1.0, repetition_penalty = 1.0;
  std::int64_t top_k = 0;  ///< 0: off
};

struct ModelConfig {
  std::string model_type;
  TextConfig text;
  VisionConfig vision;
  bool has_vision = true;
  SpecialIds ids;
  GenerationDefaults generation;
  PreprocessConfig preprocess;
};

/// Reads config.json (flat and nested forms), generation_config.json, preprocessor_config.json and
/// video_preprocessor_config.json of a checkpoint directory. Every number is checked before
/// anything is sized by it; throws Error(kInput) with file, field, value and remedy.
ModelConfig load_config(const std::string& model_dir);

}  // namespace purekv
