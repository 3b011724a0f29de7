#include "kernels/attention.h"

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

/// Packed rows of one work item: enough to pay for packing the keys, few enough for the second-level cache.
constexpr std::int64_t kItemRows = 384;
/// Calls of at most so many rows are split over keys, in pieces that do not depend on the threads.
constexpr std::int64_t kSplitRows = 8;
constexpr std::int64_t kSplitKeys = 1024;

/// Consecutive rows of one plan block for one KV head, over a part of its keys.
struct Item {
  std::int32_t block = 0;  ///< -1: no plan, rows as they come
  std::int32_t kv_head = 0;
  std::int64_t begin = 0;  ///< row within the block
  std::int64_t rows = 0;   ///< query rows, not yet packed with the group
  std::int64_t source_begin = 0, source_end = 0;
};

KeySource cached_source(const AttentionParams& p, std::int64_t kv_head) {
  const KvHeadView& head = p.cached.heads[static_cast<std::size_t>(kv_head)];
  return {.k = head.k,
          .v = head.v,
          .row_stride = head.stride,
          .bf16 = p.cached.dtype == DType::kBF16,
          .first = 0,
          .count = static_cast<std::int32_t>(head.rows)};
}

KeySource fresh_source(const AttentionParams& p, std::int64_t kv_head, const KeyRange& range) {
  const KvHeadView& head = p.fresh.heads[static_cast<std::size_t>(kv_head)];
  return {.k = head.k,
          .v = head.v,
          .row_stride = head.stride,
          .bf16 = p.fresh.dtype == DType::kBF16,
          .first = range.first,
          .count = range.count,
          .step = range.step,
          .causal = range.causal,
          .reach = range.reach};
}

/// Everything the rows of a block see, cached rows first.
std::vector<KeySource> sources_of(const AttentionParams& p, std::int32_t block, std::int64_t kv_head) {
  std::vector<KeySource> sources;
  if (!p.cached.heads.empty()) sources.push_back(cached_source(p, kv_head));
  if (block < 0) return sources;
  const QueryBlock& b = p.plan->blocks[static_cast<std::size_t>(block)];
  for (std::int32_t i = b.range_begin; i < b.range_end; ++i)
    sources.push_back(fresh_source(p, kv_head, p.plan->ranges[static_cast<std::size_t>(i)]));
  return sources;
}

QueryBlock block_of(const AttentionParams& p, std::int32_t block) {
  if (block >= 0) return p.plan->blocks[static_cast<std::size_t>(block)];
  return {.first = 0, .count = static_cast<std::int32_t>(p.q.rows)};
}

/// Copies an item's queries, scaled: [rows][group][head_dim].
QueryTile pack_queries(const AttentionParams& p, const Item& item, float* q) {
  const QueryBlock block = block_of(p, item.block);
  const std::int64_t group = p.shape.group();
  const std::int64_t d = p.shape.head_dim;
  const auto first = static_cast<std::int32_t>(block.first + item.begin * block.step);
  for (std::int64_t i = 0; i < item.rows; ++i) {
    const float* row = p.q.row<float>(first + i * block.step) + item.kv_head * group * d;
    for (std::int64_t t = 0; t < group * d; ++t) q[i * group * d + t] = row[t] * p.scale;
  }
  return {.q = q,
          .first = first,
          .step = block.step,
          .rows = static_cast<std::int32_t>(item.rows * group),
          .group = static_cast<std::int32_t>(group),
          .head_dim = static_cast<std::int32_t>(d)};
}

/// The seeds of a row as sources of one key; they belong to one row each.
void add_seeds(const AttentionParams& p, const Item& item, const QueryTile& tile, const SoftmaxState& state) {
  if (item.block < 0 || p.plan->seeds.empty()) return;
  const std::int64_t padded = padded_dim(tile.head_dim);
  for (std::int64_t i = 0; i < item.rows; ++i) {
    const std::int64_t row = tile.first + i * tile.step;
    for (const std::int32_t seed : p.plan->seeds[static_cast<std::size_t>(row)]) {
      if (seed < 0) continue;
      const std::int64_t at = i * tile.group;
      const QueryTile one{.q = tile.q + at * tile.head_dim,
                          .first = static_cast<std::int32_t>(row),
                          .step = 1,
                          .rows = tile.group,
                          .group = tile.group,
                          .head_dim = tile.head_dim};
      attention_isa().seed(one, fresh_source(p, item.kv_head, {.first = seed, .count = 1}),
                           {state.o + at * padded, state.m + at, state.l + at, state.work});
    }
  }
}

void reset(const SoftmaxState& state, std::int64_t rows, std::int64_t padded) {
  std::fill_n(state.o, rows * padded, 0.0F);
  std::fill_n(state.m, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(state.l, rows, 0.0F);
}

/// Divides by l and writes rows and log-sum-exps where the caller wants them. A row that sees nothing is 0.
void write_rows(const AttentionParams& p, const Item& item, const QueryTile& tile, const SoftmaxState& state) {
  const std::int64_t d = tile.head_dim;
  const std::int64_t padded = padded_dim(d);
  for (std::int64_t r = 0; r < tile.rows; ++r) {
    const std::int64_t row = tile.first + r / tile.group * tile.step;
    const std::int64_t head = item.kv_head * tile.group + r % tile.group;
    const float l = state.l[r];
    const float inverse = l == 0 ? 0.0F : 1.0F / l;  // a NaN passes: the model must not answer from it
    float* out = p.out.row<float>(row) + head * d;
    for (std::int64_t t = 0; t < d; ++t) out[t] = state.o[r * padded + t] * inverse;
    if (p.lse != nullptr)
      p.lse[head * p.q.rows + row] = l == 0 ? -std::numeric_limits<float>::infinity() : state.m[r] + std::log(l);
  }
}

struct ItemMemory {
  float* q;
  SoftmaxState state;
};

ItemMemory take_memory(std::int64_t rows, std::int64_t head_dim) {
  const std::int64_t padded = padded_dim(head_dim);
  float* memory = tile_memory(rows * (head_dim + padded + 2) + tile_work(head_dim));
  float* o = memory + tile_work(head_dim);
  float* q = o + rows * padded;
  float* m = q + rows * head_dim;
  return {q, {.o = o, .m = m, .l = m + rows, .work = memory}};
}

/// Rows of a block that share an item, so that packed rows stay within kItemRows.
std::int64_t rows_an_item(const AttentionParams& p) { return std::max<std::int64_t>(1, kItemRows / p.shape.group()); }

std::vector<Item> make_items(const AttentionParams& p) {
  std::vector<Item> items;
  const auto blocks = p.plan != nullptr ? static_cast<std::int32_t>(p.plan->blocks.size()) : 0;
  const std::int64_t step = rows_an_item(p);
  // Later blocks see more keys: started first, they leave no thread waiting at the end.
  for (std::int32_t block = blocks > 0 ? blocks - 1 : -1; block >= (blocks > 0 ? 0 : -1); --block) {
    const std::int64_t count = block_of(p, block).count;
    for (std::int64_t begin = 0; begin < count; begin += step)
      for (std::int32_t head = 0; head < p.shape.kv_heads; ++head)
        items.push_back({.block = block, .kv_head = head, .begin = begin, .rows = std::min(step, count - begin)});
  }
  return items;
}

void attend_rows(const Context& context, const AttentionParams& p) {
  const std::vector<Item> items = make_items(p);
  const std::int64_t d = p.shape.head_dim;
  parallel_for(context.threads, static_cast<std::int64_t>(items.size()), [&](std::int64_t n) {
    const Item& item = items[static_cast<std::size_t>(n)];
    const std::int64_t rows = item.rows * p.shape.group();
    const ItemMemory memory = take_memory(rows, d);
    const QueryTile tile = pack_queries(p, item, memory.q);
    reset(memory.state, rows, padded_dim(d));
    add_seeds(p, item, tile, memory.state);
    for (const KeySource& source : sources_of(p, item.block, item.kv_head))
      attention_isa().accumulate(tile, source, memory.state);
    write_rows(p, item, tile, memory.state);
  });
}

/// A part of what a block sees, at most kSplitKeys keys.
std::vector<KeySource> split_sources(const std::vector<KeySource>& sources) {
  std::vector<KeySource> pieces;
  for (const KeySource& source : sources)
    for (std::int32_t begin = 0; begin < source.count; begin += static_cast<std::int32_t>(kSplitKeys)) {
      KeySource piece = source;
      piece.first += begin * source.step;
      piece.count = std::min(static_cast<std::int32_t>(kSplitKeys), source.count - begin);
      pieces.push_back(piece);
    }
  return pieces;
}

/// state <- state merged with `part`, row by row; associative up to rounding, always in the same order.
void merge(const SoftmaxState& state, const SoftmaxState& part, std::int64_t rows, std::int64_t padded) {
  for (std::int64_t r = 0; r < rows; ++r) {
    if (part.l[r] <= 0) continue;
    const float top = std::max(state.m[r], part.m[r]);
    const float a = state.l[r] > 0 ? std::exp(state.m[r] - top) : 0.0F;
    const float b = std::exp(part.m[r] - top);
    state.l[r] = state.l[r] * a + part.l[r] * b;
    state.m[r] = top;
    for (std::int64_t t = 0; t < padded; ++t)
      state.o[r * padded + t] = state.o[r * padded + t] * a + part.o[r * padded + t] * b;
  }
}

/// Few rows over many keys (decode): pieces of keys in parallel, merged in order.
void attend_split(const Context& context, const AttentionParams& p) {
  struct Piece {
    std::size_t item;
    KeySource source;
  };
  const std::vector<Item> items = make_items(p);
  std::vector<Piece> pieces;
  for (std::size_t i = 0; i < items.size(); ++i)
    for (const KeySource& source : split_sources(sources_of(p, items[i].block, items[i].kv_head)))
      pieces.push_back({i, source});
  const std::int64_t d = p.shape.head_dim;
  const std::int64_t padded = padded_dim(d);
  const std::int64_t most = std::min(rows_an_item(p), p.q.rows) * p.shape.group();
  const std::int64_t slot = most * (padded + 2);
  std::vector<float> parts(pieces.size() * static_cast<std::size_t>(slot));
  const auto part_of = [&](std::size_t n, std::int64_t rows) {
    float* o = parts.data() + static_cast<std::int64_t>(n) * slot;
    return SoftmaxState{.o = o, .m = o + rows * padded, .l = o + rows * padded + rows};
  };
  parallel_for(context.threads, static_cast<std::int64_t>(pieces.size()), [&](std::int64_t n) {
    const Piece& piece = pieces[static_cast<std::size_t>(n)];
    const Item& item = items[piece.item];
    const std::int64_t rows = item.rows * p.shape.group();
    const ItemMemory memory = take_memory(rows, d);
    SoftmaxState part = part_of(static_cast<std::size_t>(n), rows);
    part.work = memory.state.work;
    reset(part, rows, padded);
    attention_isa().accumulate(pack_queries(p, item, memory.q), piece.source, part);
  });
  for (std::size_t i = 0; i < items.size(); ++i) {
    const std::int64_t rows = items[i].rows * p.shape.group();
    const ItemMemory memory = take_memory(rows, d);
    const QueryTile tile = pack_queries(p, items[i], memory.q);
    reset(memory.state, rows, padded);
    add_seeds(p, items[i], tile, memory.state);
    for (std::size_t n = 0; n < pieces.size(); ++n)
      if (pieces[n].item == i) merge(memory.state, part_of(n, rows), rows, padded);
    write_rows(p, items[i], tile, memory.state);
  }
}

}  // namespace

void check_attention_shape(const Context& context, const HeadShape& shape) {
  constexpr std::int64_t kMostDim = 256;
  constexpr std::int64_t kMostGroup = 16;
  if (context.backend == Backend::kCpu || (shape.head_dim <= kMostDim && shape.group() <= kMostGroup)) return;
  fail(ErrorKind::kResource,
       "attention on a GPU takes head_dim up to {} and {} query heads a KV head, the model has {} and {}; use --device "
       "cpu",
       kMostDim, kMostGroup, shape.head_dim, shape.group());
}

void attention(const Context& context, const AttentionParams& params) {
  const HeadShape& shape = params.shape;
  PUREKV_ASSERT(shape.heads > 0 && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim > 0);
  PUREKV_ASSERT(params.q.cols == shape.heads * shape.head_dim && params.out.cols == params.q.cols);
  PUREKV_ASSERT(params.plan == nullptr || !params.fresh.heads.empty());
  check_attention_shape(context, shape);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::attention(context, params);
  if (params.q.rows <= kSplitRows)
    attend_split(context, params);
  else
    attend_rows(context, params);
}

}  // namespace purekv
