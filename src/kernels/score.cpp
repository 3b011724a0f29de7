#include "kernels/score.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/tile_memory.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kRowsAtOnce = 384;   ///< packed rows of a tile
constexpr std::int64_t kKeysAtOnce = 1024;  ///< keys of a work item, so that few heads still fill the threads

/// Queries [first, first + rows) of one KV head's group, packed and scaled into `out`.
QueryTile pack(const HeadShape& shape, float scale, const ConstMatrixView& q, std::int64_t kv_head, std::int64_t first,
               std::int64_t rows, float* out) {
  const std::int64_t width = shape.group() * shape.head_dim;
  for (std::int64_t i = 0; i < rows; ++i) {
    const float* row = q.row<float>(first + i) + kv_head * width;
    for (std::int64_t t = 0; t < width; ++t) out[i * width + t] = row[t] * scale;
  }
  return {.q = out,
          .first = static_cast<std::int32_t>(first),
          .step = 1,
          .rows = static_cast<std::int32_t>(rows * shape.group()),
          .group = static_cast<std::int32_t>(shape.group()),
          .head_dim = static_cast<std::int32_t>(shape.head_dim)};
}

KeySource keys_of(const KvView& kv, std::int64_t kv_head, std::int64_t first, std::int64_t count) {
  const KvHeadView& head = kv.heads[static_cast<std::size_t>(kv_head)];
  return {.k = head.k,
          .v = nullptr,
          .row_stride = head.stride,
          .bf16 = kv.dtype == DType::kBF16,
          .first = static_cast<std::int32_t>(first),
          .count = static_cast<std::int32_t>(count),
          .step = 1,
          .causal = true};
}

/// Log-sum-exp of each packed row of `tile` over `source`.
void row_lse(const QueryTile& tile, const KeySource& source, float* work, float* lse) {
  std::vector<float> m(static_cast<std::size_t>(tile.rows), kNone);
  std::vector<float> l(static_cast<std::size_t>(tile.rows), 0.0F);
  attention_isa().accumulate(tile, source, {.o = nullptr, .m = m.data(), .l = l.data(), .work = work});
  for (std::int32_t r = 0; r < tile.rows; ++r) {
    const auto at = static_cast<std::size_t>(r);
    lse[r] = l[at] > 0 ? m[at] + std::log(l[at]) : kNone;
  }
}

/// Folds the group's columns [group][count] into out[count].
void reduce_group(const float* columns, std::int64_t group, std::int64_t count, bool is_max, float* out) {
  for (std::int64_t j = 0; j < count; ++j) {
    float value = columns[j];
    for (std::int64_t g = 1; g < group; ++g)
      value = is_max ? std::max(value, columns[g * count + j]) : value + columns[g * count + j];
    out[j] = is_max ? value : value / static_cast<float>(group);
  }
}

/// Memory of one tile of `rows` query rows.
struct TileMemory {
  float *work, *q;
};

TileMemory take_memory(const HeadShape& shape, std::int64_t rows) {
  float* work = tile_memory(tile_work(shape.head_dim) + rows * shape.group() * shape.head_dim);
  return {work, work + tile_work(shape.head_dim)};
}

/// Log-sum-exp of the window's rows over all keys they see, [kv_heads][w * group].
std::vector<float> window_lse(const Context& context, const WindowScoreParams& p, std::int64_t rows_a_tile) {
  const std::int64_t rows = p.q.rows;
  const std::int64_t group = p.shape.group();
  const std::int64_t tiles = (p.window + rows_a_tile - 1) / rows_a_tile;
  std::vector<float> lse(static_cast<std::size_t>(p.shape.heads * p.window));
  parallel_for(context.threads, p.shape.kv_heads * tiles, [&](std::int64_t n) {
    const std::int64_t head = n / tiles;
    const std::int64_t begin = n % tiles * rows_a_tile;
    const std::int64_t count = std::min(rows_a_tile, p.window - begin);
    const TileMemory memory = take_memory(p.shape, count);
    const QueryTile tile = pack(p.shape, p.scale, p.q, head, rows - p.window + begin, count, memory.q);
    row_lse(tile, keys_of(p.kv, head, 0, rows), memory.work, lse.data() + (head * p.window + begin) * group);
  });
  return lse;
}

/// One frame and KV head of a frame score.
struct FrameBlock {
  const FrameScoreParams& p;
  const FrameSpan& frame;
  std::int64_t head, rows_a_tile;

  /// body(tile, memory, first packed row) over the frame's rows, a tile at a time.
  template <class Body>
  void each_tile(const Body& body) const {
    for (std::int64_t begin = 0; begin < frame.rows(); begin += rows_a_tile) {
      const std::int64_t rows = std::min<std::int64_t>(rows_a_tile, frame.rows() - begin);
      const TileMemory memory = take_memory(p.shape, rows);
      body(pack(p.shape, p.scale, p.q, head, frame.start + begin, rows, memory.q), memory, begin * p.shape.group());
    }
  }
};

/// Turns the log-sum-exps over the frame into those of the whole row plus the shift that is returned: a pattern
/// can hide keys of a row's own frame, whose exp(logit - LSE) may then pass 1, where the column kernel ends.
float shift_to_whole_rows(const FrameBlock& block, std::vector<float>& lse) {
  constexpr float kMostShift = 80;  // exp of it is finite
  const FrameScoreParams& p = block.p;
  const std::int64_t group = p.shape.group();
  std::vector<float> whole(lse.size());
  float shift = 0;
  for (std::size_t r = 0; r < lse.size(); ++r) {
    const auto i = static_cast<std::int64_t>(r);
    whole[r] = p.lse[(block.head * group + i % group) * p.table->rows + block.frame.start + i / group];
    shift = std::max(shift, lse[r] - whole[r]);
  }
  shift = std::min(shift, kMostShift);
  for (std::size_t r = 0; r < lse.size(); ++r) lse[r] = whole[r] + shift;
  return shift;
}

/// local and self of one frame and KV head: maxima over rows, then over the group.
void score_frame(const FrameBlock& block) {
  const FrameScoreParams& p = block.p;
  const std::int64_t group = p.shape.group();
  const std::int64_t count = block.frame.rows();
  const std::int64_t at = block.head * p.table->rows + block.frame.start;
  const KeySource keys = keys_of(p.kv, block.head, block.frame.start, count);
  std::vector<float> best(static_cast<std::size_t>(group * count), 0.0F);
  std::vector<float> lse(best.size());
  block.each_tile([&](const QueryTile& tile, const TileMemory& memory, std::int64_t first) {
    row_lse(tile, keys, memory.work, lse.data() + first);
    attention_isa().columns(tile, keys, {.lse = lse.data() + first, .out = best.data(), .work = memory.work});
  });
  reduce_group(best.data(), group, count, true, p.local + at);
  if (p.self == nullptr) return;
  const float shift = shift_to_whole_rows(block, lse);
  std::fill(best.begin(), best.end(), 0.0F);
  block.each_tile([&](const QueryTile& tile, const TileMemory& memory, std::int64_t first) {
    attention_isa().columns(tile, keys, {.lse = lse.data() + first, .out = best.data(), .work = memory.work});
  });
  reduce_group(best.data(), group, count, true, p.self + at);
  if (shift > 0)
    for (std::int64_t j = 0; j < count; ++j) p.self[at + j] *= std::exp(shift);
}

}  // namespace

void check_score_shape(const Context& context, const HeadShape& shape) {
  constexpr std::int64_t kMostDim = 128;
  constexpr std::int64_t kMostHeads = 32;
  if (context.backend == Backend::kCpu || (shape.head_dim <= kMostDim && shape.kv_heads <= kMostHeads)) return;
  fail(ErrorKind::kResource,
       "scores on a GPU take head_dim up to {} and {} KV heads, the model has {} and {}; use --device cpu, or --method "
       "full",
       kMostDim, kMostHeads, shape.head_dim, shape.kv_heads);
}

void window_score(const Context& context, const WindowScoreParams& p) {
  PUREKV_ASSERT(p.window > 0 && p.window <= p.q.rows);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::window_score(context, p);
  const std::int64_t group = p.shape.group();
  const std::int64_t rows_a_tile = std::max<std::int64_t>(1, kRowsAtOnce / group);
  const std::vector<float> lse = window_lse(context, p, rows_a_tile);
  const std::int64_t columns = p.q.rows - p.window;
  const std::int64_t pieces = (columns + kKeysAtOnce - 1) / kKeysAtOnce;
  parallel_for(context.threads, p.shape.kv_heads * pieces, [&](std::int64_t n) {
    const std::int64_t head = n / pieces;
    const std::int64_t key = n % pieces * kKeysAtOnce;
    const std::int64_t keys = std::min(kKeysAtOnce, columns - key);
    std::vector<float> sums(static_cast<std::size_t>(group * keys), 0.0F);
    for (std::int64_t begin = 0; begin < p.window; begin += rows_a_tile) {
      const std::int64_t count = std::min(rows_a_tile, p.window - begin);
      const TileMemory memory = take_memory(p.shape, count);
      const QueryTile tile = pack(p.shape, p.scale, p.q, head, columns + begin, count, memory.q);
      attention_isa().columns(tile, keys_of(p.kv, head, key, keys),
                              {.lse = lse.data() + (head * p.window + begin) * group,
                               .out = sums.data(),
                               .sum = !p.row_max,
                               .work = memory.work});
    }
    reduce_group(sums.data(), group, keys, p.group_max, p.out + head * columns + key);
  });
}

void frame_score(const Context& context, const FrameScoreParams& p) {
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::frame_score(context, p);
  const auto frames = static_cast<std::int64_t>(p.table->frames.size());
  const std::int64_t size = p.shape.kv_heads * p.table->rows;
  const std::int64_t rows_a_tile = std::max<std::int64_t>(1, kRowsAtOnce / p.shape.group());
  std::fill_n(p.local, size, 0.0F);
  if (p.self != nullptr) std::fill_n(p.self, size, 0.0F);
  parallel_for(context.threads, frames * p.shape.kv_heads, [&](std::int64_t n) {
    const FrameSpan& frame = p.table->frames[static_cast<std::size_t>(n / p.shape.kv_heads)];
    score_frame({p, frame, n % p.shape.kv_heads, rows_a_tile});
  });
}

}  // namespace purekv
