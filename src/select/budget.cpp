#include "select/budget.h"

#include <algorithm>
#include <cmath>

#include "base/fail.h"

namespace purekv {
namespace {

constexpr std::int64_t kFrameWindow = 64;  ///< most question rows that a frame score asks with
constexpr std::int64_t kTextWindow = 32;   ///< window of a prompt that has no question after a medium

std::int64_t question_rows(const FrameTable& table) { return table.rows - table.question_start; }

/// `--window` as given, or the rows after the last visual row.
std::int64_t given_window(const CompressionOptions& options, const FrameTable& table) {
  if (!options.window_is_question) return options.window;
  if (table.frames.empty()) return kTextWindow;
  return std::max<std::int64_t>(1, std::min(options.window, question_rows(table)));
}

std::int64_t budget_rows(const Budget& budget, std::int64_t base) {
  if (!budget.is_percent) {
    if (budget.rows < 1) fail(ErrorKind::kUsage, "--budget {} keeps no row; give at least 1", budget.rows);
    return budget.rows;
  }
  constexpr double kWhole = 100.0;
  // A decimal share times a row count can fall a hair below the integer it means.
  constexpr double kSlack = 1e-9;
  if (!(budget.percent > 0.0 && budget.percent <= kWhole))
    fail(ErrorKind::kUsage, "--budget {}% is outside (0%, 100%]; give a share of the rows, for example 20%",
         budget.percent);
  const double rows = std::floor(budget.percent / kWhole * static_cast<double>(base) + kSlack);
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(rows));
}

}  // namespace

CompressionOptions effective_options(const CompressionOptions& options, const FrameTable& table) {
  CompressionOptions effective = options;
  if (!is_frame_score(options.score)) return effective;
  effective.row_reduce = RowReduce::kMax;
  effective.gqa_reduce = GqaReduce::kMax;
  effective.vnorm = ValueNorm::kOut;
  if (!table.frames.empty()) return effective;
  effective.score = Score::kOwn;
  effective.window = kTextWindow;
  effective.window_is_question = false;
  return effective;
}

ResolvedBudget resolve_budget(const CompressionOptions& options, const FrameTable& table) {
  const CompressionOptions effective = effective_options(options, table);
  const bool frame = is_frame_score(effective.score);
  const bool video = effective.budget_base == BudgetBase::kVideo;
  const std::int64_t visual = table.visual_rows();
  const std::int64_t base = video ? visual : table.rows;
  ResolvedBudget budget;
  budget.rows = budget_rows(effective.budget, base);
  if (frame && !video) budget.rows = std::max(budget.rows, table.rows - visual + 1);
  const std::int64_t window = given_window(effective, table);
  budget.window = frame ? std::clamp<std::int64_t>(question_rows(table), 1, kFrameWindow)
                        : std::max<std::int64_t>(1, std::min(window, budget.rows / 2));
  budget.compress = effective.method != Method::kFull && base > budget.rows && (frame || base > window);
  return budget;
}

Quota make_quota(const CompressionOptions& options, const ResolvedBudget& budget, const FrameTable& table) {
  const bool video = options.budget_base == BudgetBase::kVideo;
  const bool keeps_text = video || is_frame_score(options.score);
  const std::int64_t columns = table.rows - budget.window;
  Quota quota;
  quota.forced.assign(static_cast<std::size_t>(columns), false);
  std::int64_t room = budget.rows;
  // With the base on the video, text stays beside the budget and costs nothing of it.
  const auto cost = [&](std::int64_t row) { return video && table.is_text(static_cast<std::int32_t>(row)) ? 0 : 1; };
  for (std::int64_t row = columns; row < table.rows; ++row) room -= cost(row);
  const auto force = [&](std::int64_t row) {
    if (quota.forced[static_cast<std::size_t>(row)]) return;
    quota.forced[static_cast<std::size_t>(row)] = true;
    ++quota.forced_count;
    room -= cost(row);
  };
  if (keeps_text)
    for (std::int64_t row = 0; row < columns; ++row)
      if (table.is_text(static_cast<std::int32_t>(row))) force(row);
  for (std::int64_t row = 0; row < std::min(options.sinks, columns) && room > 0; ++row) force(row);
  quota.ranked = std::max<std::int64_t>(0, room);
  return quota;
}

}  // namespace purekv
