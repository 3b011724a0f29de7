#include "report.h"

#include <fmt/format.h>

#include <array>

namespace purekv::app {
namespace {

void add_row(std::string& table, std::string_view name, const std::string& value) {
  table += fmt::format("  {:<16}{}\n", name, value);
}

double percent(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

}  // namespace

std::string bytes_text(std::int64_t bytes) {
  constexpr std::array<std::string_view, 4> kUnits = {"KiB", "MiB", "GiB", "TiB"};
  constexpr double kStep = 1024;
  auto value = static_cast<double>(bytes);
  if (value < kStep) return fmt::format("{} B", bytes);
  std::size_t unit = 0;
  for (value /= kStep; value >= kStep && unit + 1 < kUnits.size(); value /= kStep) ++unit;
  return fmt::format("{:.1f} {}", value, kUnits.at(unit));
}

std::int64_t medium_tokens(const ClipInfo& clip, int merge) {
  return static_cast<std::int64_t>(clip.grid_t) * (clip.grid_h / merge) * (clip.grid_w / merge);
}

std::string medium_text(const ClipInfo& clip, int merge) {
  const std::size_t frames = clip.frame_indices.size();
  return fmt::format("{} frame{}, grid {}x{}x{}, {} tokens", frames, frames == 1 ? "" : "s", clip.grid_t, clip.grid_h,
                     clip.grid_w, medium_tokens(clip, merge));
}

std::string closing_table(const Answer& answer, int merge) {
  std::string table;
  for (const ClipInfo& clip : answer.media) add_row(table, "media", clip.path + ": " + medium_text(clip, merge));
  add_row(table, "prompt", fmt::format("{} tokens, {} of them visual", answer.prompt_tokens, answer.video_tokens));
  add_row(table, "answer",
          fmt::format("{} tokens, ended by {}", answer.output_ids.size(), answer.stopped ? "stop" : "length"));
  add_row(table, "KV full", bytes_text(answer.kv.bytes_full));
  add_row(table, "KV kept",
          fmt::format("{} ({:.1f} %)", bytes_text(answer.kv.bytes_kept),
                      percent(answer.kv.bytes_kept, answer.kv.bytes_full)));
  add_row(table, "KV peak", bytes_text(answer.kv.bytes_peak));
  const Timing& time = answer.time_ms;
  add_row(table, "load", fmt::format("{:.1f} ms", time.load));
  add_row(table, "media", fmt::format("{:.1f} ms", time.media));
  add_row(table, "vision", fmt::format("{:.1f} ms", time.vision));
  add_row(table, "prefill", fmt::format("{:.1f} ms", time.prefill));
  add_row(table, "first token", fmt::format("{:.1f} ms", time.first_token));
  add_row(table, "per token", fmt::format("{:.2f} ms", time.per_token));
  return table;
}

}  // namespace purekv::app
