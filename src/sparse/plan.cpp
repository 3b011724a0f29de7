#include "sparse/plan.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"

namespace purekv {
namespace {

/// Consecutive rows of the prompt that are all text, or all of one clip.
struct Run {
  std::int32_t begin = 0, end = 0;
  std::int32_t clip = -1;
};

std::vector<Run> make_runs(const FrameTable& table) {
  std::vector<Run> runs;
  for (std::int32_t row = 0; row < table.rows; ++row) {
    const std::int32_t clip = table.places[static_cast<std::size_t>(row)].clip;
    if (runs.empty() || runs.back().clip != clip) runs.push_back({row, row, clip});
    runs.back().end = row + 1;
  }
  return runs;
}

/// Rows that a range gives to query row i.
std::int64_t visible_keys(const KeyRange& range, std::int64_t row) {
  const std::int64_t first = range.first;
  std::int64_t high = range.count;
  if (range.causal) high = std::min<std::int64_t>(high, row < first ? 0 : (row - first) / range.step + 1);
  const std::int64_t farthest = row - range.reach;
  const std::int64_t low = farthest > first ? (farthest - first + range.step - 1) / range.step : 0;
  return std::max<std::int64_t>(0, high - low);
}

class Planner {
 public:
  Planner(const FrameTable& table, const PlanRequest& request)
      : table_(table), request_(request), runs_(make_runs(table)) {}

  AttentionPlan make() && {
    if (request_.pattern == Pattern::kDense) {
      add_dense(0, table_.rows);
      return std::move(plan_);
    }
    if (is_temporal()) plan_.seeds.assign(static_cast<std::size_t>(table_.rows), {-1, -1});
    for (const Run& run : runs_) {
      if (run.clip < 0)
        add_dense(run.begin, run.end);
      else if (request_.pattern == Pattern::kLocal)
        add_local(run);
      else if (request_.pattern == Pattern::kAtrous)
        add_atrous(run);
      else
        add_frames(run);
    }
    for (const auto& seeds : plan_.seeds) plan_.pairs += (seeds[0] >= 0 ? 1 : 0) + (seeds[1] >= 0 ? 1 : 0);
    return std::move(plan_);
  }

 private:
  [[nodiscard]] bool is_temporal() const {
    return request_.pattern == Pattern::kTemporal || request_.pattern == Pattern::kSpatialTemporal;
  }

  void add_block(QueryBlock block, const std::vector<KeyRange>& ranges) {
    block.range_begin = static_cast<std::int32_t>(plan_.ranges.size());
    for (const KeyRange& range : ranges) add_range(range, block.range_begin);
    block.range_end = static_cast<std::int32_t>(plan_.ranges.size());
    for (std::int32_t i = 0; i < block.count; ++i)
      for (std::int32_t n = block.range_begin; n < block.range_end; ++n)
        plan_.pairs += visible_keys(plan_.ranges[static_cast<std::size_t>(n)], block.first + i * block.step);
    plan_.blocks.push_back(block);
  }

  /// Neighbouring ranges of a block become one: fewer tiles with idle columns.
  void add_range(const KeyRange& range, std::int32_t range_begin) {
    if (range.count == 0) return;
    const bool is_first = static_cast<std::int32_t>(plan_.ranges.size()) == range_begin;
    KeyRange* last = is_first ? nullptr : &plan_.ranges.back();
    const bool joins = last != nullptr && last->step == 1 && range.step == 1 && last->reach == range.reach &&
                       last->first + last->count == range.first;
    if (!joins) {
      plan_.ranges.push_back(range);
      return;
    }
    last->count += range.count;
    last->causal = last->causal || range.causal;
  }

  /// Rows that see every row before them.
  void add_dense(std::int32_t begin, std::int32_t end) {
    for (std::int32_t first = begin; first < end; first += request_.block_rows) {
      const std::int32_t count = std::min(request_.block_rows, end - first);
      add_block({.first = first, .count = count}, {{.first = 0, .count = first + count, .causal = true}});
    }
  }

  /// Text rows before `row`: every pattern lets visual rows see them (docs/method.md).
  [[nodiscard]] std::vector<KeyRange> text_before(std::int32_t row) const {
    std::vector<KeyRange> ranges;
    for (const Run& run : runs_)
      if (run.clip < 0 && run.begin < row) ranges.push_back({.first = run.begin, .count = run.end - run.begin});
    return ranges;
  }

  void add_local(const Run& run) {
    const auto window = static_cast<std::int32_t>(std::min<std::int64_t>(request_.local_window, table_.rows));
    for (std::int32_t first = run.begin; first < run.end; first += request_.block_rows) {
      const std::int32_t count = std::min(request_.block_rows, run.end - first);
      std::vector<KeyRange> ranges = text_before(first);
      for (const Run& earlier : runs_) {
        if (earlier.clip != run.clip || earlier.begin > first) continue;
        const std::int32_t low = std::max(earlier.begin, first - window);
        const std::int32_t high = std::min(earlier.end, first + count);
        if (low < high) ranges.push_back({.first = low, .count = high - low, .causal = true, .reach = window});
      }
      add_block({.first = first, .count = count}, ranges);
    }
  }

  /// Rows of one residue see keys of that residue: query and key steps are both the rate.
  void add_atrous(const Run& run) {
    const auto rate = static_cast<std::int32_t>(std::min<std::int64_t>(request_.atrous_rate, table_.rows));
    const std::int32_t residues = std::min(rate, run.end - run.begin);
    for (std::int32_t offset = 0; offset < residues; ++offset) {
      const std::int32_t start = run.begin + offset;
      const std::int32_t rows = (run.end - start + rate - 1) / rate;
      for (std::int32_t done = 0; done < rows; done += request_.block_rows) {
        const std::int32_t count = std::min(request_.block_rows, rows - done);
        const std::int32_t first = start + done * rate;
        const std::int32_t last = first + (count - 1) * rate;
        std::vector<KeyRange> ranges = text_before(run.begin);
        for (const Run& earlier : runs_) {
          if (earlier.clip != run.clip || earlier.begin > last) continue;
          const std::int32_t low = earlier.begin + (start - earlier.begin) % rate;
          const std::int32_t high = std::min(earlier.end - 1, last);
          if (low <= high)
            ranges.push_back({.first = low, .count = (high - low) / rate + 1, .step = rate, .causal = true});
        }
        add_block({.first = first, .count = count, .step = rate}, ranges);
      }
    }
  }

  /// Spatial, temporal and their union, frame by frame.
  void add_frames(const Run& run) {
    for (const FrameSpan& frame : table_.frames) {
      if (frame.start < run.begin || frame.start >= run.end) continue;
      const FrameSpan& anchor = first_frame(frame);
      const bool own = request_.pattern != Pattern::kTemporal || &anchor == &frame;
      for (std::int32_t done = 0; done < frame.rows(); done += request_.block_rows) {
        const std::int32_t first = frame.start + done;
        const std::int32_t count = std::min(request_.block_rows, frame.rows() - done);
        std::vector<KeyRange> ranges = text_before(first);
        if (&anchor != &frame) ranges.push_back({.first = anchor.start, .count = anchor.rows()});
        if (own) ranges.push_back({.first = frame.start, .count = done + count, .causal = true});
        add_block({.first = first, .count = count}, ranges);
        if (is_temporal()) add_seeds(first, count, own, frame, anchor);
      }
    }
  }

  [[nodiscard]] const FrameSpan& first_frame(const FrameSpan& frame) const {
    const FrameSpan* anchor = &frame - frame.index;
    PUREKV_ASSERT(anchor >= table_.frames.data() && anchor->clip == frame.clip);
    return *anchor;
  }

  /// The row itself where no range holds it, and the same cell one frame earlier unless the anchor has it.
  void add_seeds(std::int32_t first, std::int32_t count, bool own, const FrameSpan& frame, const FrameSpan& anchor) {
    const bool follows_anchor = &frame == &anchor || &frame == &anchor + 1;
    for (std::int32_t row = first; row < first + count; ++row) {
      auto& seeds = plan_.seeds[static_cast<std::size_t>(row)];
      if (!own) seeds[0] = row;
      if (!follows_anchor) seeds[1] = table_.previous_cell(row);
    }
  }

  const FrameTable& table_;
  const PlanRequest& request_;
  std::vector<Run> runs_;
  AttentionPlan plan_;
};

}  // namespace

std::int32_t plan_block_rows(const Context& context) {
  constexpr std::int32_t kCpu = 64;
  return context.backend == Backend::kCpu ? kCpu : 1 << 29;
}

AttentionPlan make_plan(const FrameTable& table, const PlanRequest& request) {
  PUREKV_ASSERT(request.block_rows > 0);
  PUREKV_ASSERT(request.pattern != Pattern::kLocal || request.local_window > 0);
  PUREKV_ASSERT(request.pattern != Pattern::kAtrous || request.atrous_rate > 0);
  return Planner(table, request).make();
}

AttentionPlan make_segment_plan(const std::vector<std::int32_t>& starts, std::int32_t block_rows) {
  AttentionPlan plan;
  for (std::size_t i = 0; i + 1 < starts.size(); ++i) {
    const std::int32_t size = starts[i + 1] - starts[i];
    const auto range = static_cast<std::int32_t>(plan.ranges.size());
    plan.ranges.push_back({.first = starts[i], .count = size});
    for (std::int32_t done = 0; done < size; done += block_rows)
      plan.blocks.push_back({.first = starts[i] + done,
                             .count = std::min(block_rows, size - done),
                             .step = 1,
                             .range_begin = range,
                             .range_end = range + 1});
    plan.pairs += static_cast<std::int64_t>(size) * size;
  }
  return plan;
}

}  // namespace purekv
