#include "cache/kv_cache.h"

#include <cstring>
#include <numeric>
#include <utility>

#include "base/fail.h"
#include "kernels/gather.h"

namespace purekv {
namespace {

/// Rows that the cache takes ahead of the answer, a head.
constexpr std::int64_t kGrowRows = 32;

std::int64_t row_bytes(const HeadShape& shape, DType dtype) {
  return shape.head_dim * static_cast<std::int64_t>(size_of(dtype));
}

}  // namespace

LayerScratch::LayerScratch(const Context& context, const HeadShape& shape, std::int64_t rows, ByteCounter* counter)
    : shape_(shape),
      dtype_(context.compute),
      rows_(rows),
      k_(context, shape.kv_heads * rows * row_bytes(shape, context.compute), counter),
      v_(context, k_.bytes(), counter) {}

KvView LayerScratch::view() const {
  KvView view{dtype_, {}};
  const std::int64_t head_bytes = rows_ * row_bytes(shape_, dtype_);
  for (std::int64_t h = 0; h < shape_.kv_heads; ++h)
    view.heads.push_back(
        {k_.as<std::byte>() + h * head_bytes, v_.as<std::byte>() + h * head_bytes, rows_, shape_.head_dim});
  return view;
}

KvCache::KvCache(const Context& context, const HeadShape& shape, std::int64_t layers)
    : context_(context), shape_(shape) {
  layers_.resize(static_cast<std::size_t>(layers));
  for (auto& layer : layers_) layer.resize(static_cast<std::size_t>(shape.kv_heads));
}

ByteCounter* KvCache::counter() { return &counter_; }

// By value: the scratch is gone when this returns, before the next layer takes its own.
void KvCache::apply(std::int64_t layer, LayerScratch scratch,  // NOLINT(performance-unnecessary-value-param)
                    const CompactionPlan* plan, std::int32_t first) {
  PUREKV_ASSERT(plan == nullptr || static_cast<std::int64_t>(plan->keep.slots.size()) == shape_.kv_heads);
  const std::int64_t bytes = row_bytes(shape_, context_.compute);
  const KvView fresh = scratch.view();
  std::vector<std::int32_t> all(plan == nullptr ? static_cast<std::size_t>(scratch.rows()) : 0);
  std::iota(all.begin(), all.end(), 0);
  for (std::size_t h = 0; h < fresh.heads.size(); ++h) {
    Head& head = layers_[static_cast<std::size_t>(layer)][h];
    PUREKV_ASSERT(head.rows == 0);
    head.tokens = plan == nullptr ? all : plan->keep.slots[h];
    head.rows = head.capacity = static_cast<std::int64_t>(head.tokens.size());
    head.k = Buffer(context_, head.rows * bytes, &counter_);
    head.v = Buffer(context_, head.rows * bytes, &counter_);
    GatherParams rows{.in = fresh.heads[h].k,
                      .rows = head.tokens.data(),
                      .count = head.rows,
                      .row_bytes = bytes,
                      .out = head.k.data()};
    gather_rows(context_, rows);
    rows.in = fresh.heads[h].v;
    rows.out = head.v.data();
    gather_rows(context_, rows);
    for (std::int32_t& token : head.tokens) token += first;
  }
}

void KvCache::grow(Head& head) {
  const std::int64_t bytes = row_bytes(shape_, context_.compute);
  const auto used = static_cast<std::size_t>(head.rows * bytes);
  for (Buffer* buffer : {&head.k, &head.v}) {
    Buffer larger(context_, (head.rows + kGrowRows) * bytes, &counter_);
    if (used > 0) std::memcpy(larger.data(), buffer->data(), used);
    *buffer = std::move(larger);
  }
  head.capacity = head.rows + kGrowRows;
}

KvCache::AppendSlot KvCache::append(std::int64_t layer, std::int32_t token) {
  AppendSlot slot;
  const std::int64_t bytes = row_bytes(shape_, context_.compute);
  for (Head& head : layers_[static_cast<std::size_t>(layer)]) {
    if (head.rows == head.capacity) grow(head);
    slot.k.push_back(head.k.as<std::byte>() + head.rows * bytes);
    slot.v.push_back(head.v.as<std::byte>() + head.rows * bytes);
    ++head.rows;
    head.tokens.push_back(token);
  }
  return slot;
}

KvView KvCache::view(std::int64_t layer) const {
  KvView view{context_.compute, {}};
  for (const Head& head : layers_[static_cast<std::size_t>(layer)])
    view.heads.push_back({head.k.data(), head.v.data(), head.rows, shape_.head_dim});
  return view;
}

std::int64_t KvCache::rows(std::int64_t layer, std::int64_t kv_head) const {
  return layers_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)].rows;
}

std::span<const std::int32_t> KvCache::tokens(std::int64_t layer, std::int64_t kv_head) const {
  return layers_[static_cast<std::size_t>(layer)][static_cast<std::size_t>(kv_head)].tokens;
}

std::int64_t KvCache::bytes_used() const {
  std::int64_t rows = 0;
  for (const auto& layer : layers_)
    for (const Head& head : layer) rows += head.rows;
  return rows * 2 * row_bytes(shape_, context_.compute);
}

DType KvCache::dtype() const { return context_.compute; }

}  // namespace purekv
