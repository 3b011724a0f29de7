#include "cache/kv_cache.h"

#include <algorithm>
#include <utility>

#include "base/fail.h"
#include "device/transfer.h"
#include "kernels/gather.h"

namespace purekv {
namespace {

/// Rows that the cache takes ahead of the answer, a head.
constexpr std::int64_t kGrowRows = 32;

std::int64_t bytes_of_row(const HeadShape& shape, DType dtype) {
  return shape.head_dim * static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace

LayerScratch::LayerScratch(const Context& context, const HeadShape& shape, std::int64_t rows, ByteCounter* counter)
    : shape_(shape),
      dtype_(context.compute),
      rows_(rows),
      k_(context, shape.kv_heads * rows * bytes_of_row(shape, context.compute), counter),
      v_(context, k_.bytes(), counter) {}

KvView LayerScratch::view() const {
  KvView view{dtype_, {}};
  const std::int64_t head_bytes = rows_ * bytes_of_row(shape_, dtype_);
  for (std::int64_t h = 0; h < shape_.kv_heads; ++h)
    view.heads.push_back(
        {k_.as<std::byte>() + h * head_bytes, v_.as<std::byte>() + h * head_bytes, rows_, shape_.head_dim});
  return view;
}

KvCache::KvCache(const Context& context, const HeadShape& shape, std::int64_t layers)
    : context_(context), shape_(shape), layers_(static_cast<std::size_t>(layers)) {
  for (Layer& layer : layers_) layer.heads.resize(static_cast<std::size_t>(shape.kv_heads));
}

std::int64_t KvCache::row_bytes() const { return bytes_of_row(shape_, dtype()); }

/// New memory for `capacity` rows a head; the rows are still to come.
void KvCache::place(Layer& layer, const std::vector<std::int64_t>& capacity) {
  std::int64_t rows = 0;
  for (const std::int64_t count : capacity) rows += count;
  layer.memory = Buffer(context_, 2 * rows * row_bytes(), &counter_);
  layer.capacity = capacity;
  auto* next = layer.memory.as<std::byte>();
  for (std::size_t h = 0; h < capacity.size(); ++h) {
    const std::int64_t bytes = capacity[h] * row_bytes();
    layer.heads[h].k = next;
    layer.heads[h].v = next + bytes;
    next += 2 * bytes;
  }
}

void KvCache::move_rows(const std::vector<KvRows>& from, const std::vector<KvRows>& to, const KeepList* keep) {
  std::vector<KvRows> both = from;
  both.insert(both.end(), to.begin(), to.end());
  const Buffer table = to_device(context_, both);
  std::int64_t most = 0;
  for (const KvRows& head : to) most = std::max(most, head.rows);
  gather_rows(context_, {.shape = shape_,
                         .dtype = dtype(),
                         .from = table.as<KvRows>(),
                         .to = table.as<KvRows>() + from.size(),
                         .slots = keep == nullptr ? nullptr : keep->slots,
                         .slot_stride = keep == nullptr ? 0 : keep->slot_stride,
                         .most_rows = most});
}

// By value: the scratch is gone when this returns, before the next layer takes its own.
void KvCache::apply(std::int64_t index, LayerScratch scratch,  // NOLINT(performance-unnecessary-value-param)
                    const CompactionPlan* plan, std::int32_t first) {
  const KeepList* keep = plan == nullptr ? nullptr : &plan->keep;
  PUREKV_ASSERT(keep == nullptr || static_cast<std::int64_t>(keep->counts.size()) == shape_.kv_heads);
  Layer& layer = at(index);
  PUREKV_ASSERT(layer.capacity.empty() && appended_.empty());
  std::vector<KvRows> from;
  for (const KvHeadView& head : scratch.view().heads)
    from.push_back({const_cast<void*>(head.k), const_cast<void*>(head.v), head.rows});
  layer.prompt = keep == nullptr ? std::vector<std::int64_t>(from.size(), scratch.rows()) : keep->counts;
  layer.first = first;
  place(layer, layer.prompt);
  for (std::size_t h = 0; h < from.size(); ++h) layer.heads[h].rows = layer.prompt[h];
  move_rows(from, layer.heads, keep);
  if (keep == nullptr) return;
  layer.slot_stride = keep->slot_stride;
  layer.slots = Buffer(context_, shape_.kv_heads * keep->slot_stride * static_cast<std::int64_t>(sizeof(std::int32_t)));
  copy_bytes(context_, layer.slots.data(), keep->slots, layer.slots.bytes());
}

void KvCache::reserve(std::int64_t index) {
  Layer& layer = at(index);
  bool full = layer.capacity.empty();
  for (std::size_t h = 0; h < layer.capacity.size(); ++h) full = full || layer.heads[h].rows == layer.capacity[h];
  if (!full) return;
  const std::vector<KvRows> before = layer.heads;
  const Buffer old = std::move(layer.memory);
  std::vector<std::int64_t> capacity;
  capacity.reserve(before.size());
  for (const KvRows& head : before) capacity.push_back(head.rows + kGrowRows);
  place(layer, capacity);
  move_rows(before, layer.heads, nullptr);
}

void KvCache::appended(std::int32_t token) {
  for (Layer& layer : layers_)
    for (std::size_t h = 0; h < layer.heads.size(); ++h) {
      PUREKV_ASSERT(h < layer.capacity.size() && layer.heads[h].rows < layer.capacity[h]);
      ++layer.heads[h].rows;
    }
  appended_.push_back(token);
}

const std::vector<KvRows>& KvCache::heads(std::int64_t layer) const { return at(layer).heads; }

KvView KvCache::view(std::int64_t layer) const {
  KvView view{dtype(), {}};
  for (const KvRows& head : at(layer).heads) view.heads.push_back({head.k, head.v, head.rows, shape_.head_dim});
  return view;
}

std::int64_t KvCache::rows(std::int64_t layer, std::int64_t kv_head) const {
  return at(layer).heads[static_cast<std::size_t>(kv_head)].rows;
}

std::int64_t KvCache::most_rows() const {
  std::int64_t most = 0;
  for (const Layer& layer : layers_)
    for (const KvRows& head : layer.heads) most = std::max(most, head.rows);
  return most;
}

std::vector<std::int32_t> KvCache::tokens(std::int64_t index, std::int64_t kv_head) const {
  const Layer& layer = at(index);
  const std::int64_t prompt = layer.prompt.empty() ? 0 : layer.prompt[static_cast<std::size_t>(kv_head)];
  std::vector<std::int32_t> tokens;
  if (layer.slots.data() != nullptr)
    tokens = to_host<std::int32_t>(context_, layer.slots.as<std::int32_t>() + kv_head * layer.slot_stride, prompt);
  else
    for (std::int32_t row = 0; row < prompt; ++row) tokens.push_back(row);
  for (std::int32_t& token : tokens) token += layer.first;
  tokens.insert(tokens.end(), appended_.begin(), appended_.end());
  return tokens;
}

std::int64_t KvCache::bytes_used() const {
  std::int64_t rows = 0;
  for (const Layer& layer : layers_)
    for (const KvRows& head : layer.heads) rows += head.rows;
  return rows * 2 * row_bytes();
}

}  // namespace purekv
