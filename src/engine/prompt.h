#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flow/frame_table.h"
#include "model/config.h"
#include "model/positions.h"
#include "purekv/media.h"
#include "purekv/tokenizer.h"

namespace purekv {

/// A prompt as the model sees it: pad ids repeated once a visual row, positions, and which row
/// belongs to which frame.
struct Prompt {
  std::vector<std::int32_t> ids;  ///< [l]
  Positions positions;            ///< [3][l]
  FrameTable table;
  std::vector<std::int32_t> media_start;  ///< first row of each medium
};

/// What a prompt is put together from.
struct PromptParts {
  std::vector<ClipInfo> media;  ///< in order
  std::string question;
  std::optional<std::string> system;
  std::vector<std::int32_t> ids;  ///< non-empty: replaces template and question, one pad a medium
};

/// Merged cells of a medium: rows it takes in the prompt.
std::int64_t visual_rows(const ClipInfo& clip, const VisionConfig& vision);

/// Renders Qwen's ChatML (docs/model.md): text between two special tokens is tokenised as one string
/// and never becomes a special token itself. Throws Error(kInput) where the tokenizer lacks a
/// special token, an id passes the vocabulary, or the prompt passes the context.
Prompt make_prompt(const ModelConfig& config, const Tokenizer* tokenizer, const PromptParts& parts);

/// The table of the same prompt without its places, however far it passes the context: memory grows with frames, not
/// rows. Throws like make_prompt (pads are taken to match the media), and where rows pass 31 bits.
FrameTable outline_prompt(const ModelConfig& config, const Tokenizer* tokenizer, const PromptParts& parts);

}  // namespace purekv
