#pragma once

#include <cstdint>
#include <string>

#include "purekv/engine.h"

namespace purekv::app {

/// 1234567 as "1.2 MiB", exact below 1 KiB.
std::string bytes_text(std::int64_t bytes);
/// "16 frames, grid 8x12x20, 480 tokens" of one medium; `merge` patches a side are one token.
std::string medium_text(const ClipInfo& clip, int merge);
/// Tokens that a medium becomes.
std::int64_t medium_tokens(const ClipInfo& clip, int merge);
/// The table that closes an answer: frames, tokens, KV bytes and times, a line each.
std::string closing_table(const Answer& answer, int merge);

}  // namespace purekv::app
