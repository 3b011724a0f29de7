#include <algorithm>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "device/transfer.h"
#include "kernels/attention.h"
#include "kernels/embed.h"
#include "model/decoder.h"

namespace purekv {

Prefill::Prefill(const Decoder& decoder, KvCache& cache, const PrefillRequest& request)
    : decoder_(decoder), cache_(cache), request_(request) {
  const HeadShape& heads = decoder.config().heads;
  const std::int64_t rows = request.hidden.rows;
  PUREKV_ASSERT(rows > 0 && request.chunk > 0);
  // Even chunks: a short last one would read all weights for few rows.
  const std::int64_t chunk = std::min(request.chunk, rows);
  const std::int64_t chunks = (rows + chunk - 1) / chunk;
  request_.chunk = (rows + chunks - 1) / chunks;
  const DType activation = decoder.context().activation();
  q_ = Matrix(decoder.context(), activation, rows, heads.heads * heads.head_dim);
  attended_ = Matrix(decoder.context(), activation, rows, heads.heads * heads.head_dim);
  last_ = Matrix(decoder.context(), DType::kF32, 1, decoder.config().hidden);
}

void Prefill::check_stop() const {
  if (request_.stop != nullptr && request_.stop->load(std::memory_order_relaxed))
    fail(ErrorKind::kInterrupted, "interrupted in layer {} of the prefill", layer_);
}

void Prefill::project(LayerScratch& scratch) {
  const std::int64_t rows = request_.hidden.rows;
  const Context& context = decoder_.context();
  const HeadShape& heads = decoder_.config().heads;
  const std::int64_t row_bytes = heads.head_dim * static_cast<std::int64_t>(size_of(context.compute));
  for (std::int64_t begin = 0; begin < rows; begin += request_.chunk) {
    check_stop();
    const std::int64_t count = std::min(request_.chunk, rows - begin);
    decoder_.project_heads(layer_, request_.hidden.slice(begin, count),
                           {.shape = heads,
                            .cos = request_.rope->cos_row(begin),
                            .sin = request_.rope->sin_row(begin),
                            .q = q_.slice(begin, count),
                            .keys = static_cast<std::byte*>(scratch.keys()) + begin * row_bytes,
                            .values = static_cast<std::byte*>(scratch.values()) + begin * row_bytes,
                            .kv_dtype = context.compute,
                            .head_stride = rows * heads.head_dim,
                            .row_stride = heads.head_dim});
  }
}

void Prefill::attend(const LayerScratch& scratch, bool lse) {
  const HeadShape& heads = decoder_.config().heads;
  const std::int64_t rows = request_.hidden.rows;
  const bool sparse = layer_ >= request_.sparse_from && request_.sparse != nullptr;
  const std::int64_t lse_bytes = heads.heads * rows * static_cast<std::int64_t>(sizeof(float));
  if (lse && lse_.bytes() < lse_bytes) lse_ = Buffer(decoder_.context(), lse_bytes);
  attention(decoder_.context(), {.shape = heads,
                                 .scale = decoder_.scale(),
                                 .q = q_.view(),
                                 .cached = {},
                                 .fresh = scratch.view(),
                                 .plan = sparse ? request_.sparse : request_.dense,
                                 .out = attended_.view(),
                                 .lse = lse ? lse_.as<float>() : nullptr});
}

/// The last row is text, or sees under its pattern what the plan says; either way one query over the
/// same keys. It is computed alone so that its bits do not depend on who else is computed.
void Prefill::attend_last_row(const LayerScratch& scratch) {
  const bool sparse = layer_ >= request_.sparse_from && request_.sparse != nullptr;
  const AttentionPlan& whole = sparse ? *request_.sparse : *request_.dense;
  const auto row = static_cast<std::int32_t>(request_.hidden.rows - 1);
  const auto block = std::find_if(whole.blocks.begin(), whole.blocks.end(), [row](const QueryBlock& b) {
    return row >= b.first && row <= b.first + (b.count - 1) * b.step && (row - b.first) % b.step == 0;
  });
  PUREKV_ASSERT(block != whole.blocks.end());
  AttentionPlan plan;
  plan.ranges.assign(whole.ranges.begin() + block->range_begin, whole.ranges.begin() + block->range_end);
  plan.blocks.push_back({0, 1, 1, 0, static_cast<std::int32_t>(plan.ranges.size())});
  for (KeyRange& range : plan.ranges) {
    // A query numbered 0 cannot carry "j <= i": the rows it may see are cut here instead.
    const std::int32_t low = std::max<std::int64_t>(0, static_cast<std::int64_t>(row) - range.reach) > range.first
                                 ? static_cast<std::int32_t>(row - range.reach)
                                 : range.first;
    const std::int32_t skip = (low - range.first + range.step - 1) / range.step;
    range.first += skip * range.step;
    range.count -= skip;
    if (range.causal) range.count = std::min(range.count, (row - range.first) / range.step + 1);
    range.count = std::max(range.count, 0);
    range.causal = false;
    range.reach = std::numeric_limits<std::int32_t>::max();
  }
  std::erase_if(plan.ranges, [](const KeyRange& range) { return range.count == 0; });
  plan.blocks.front().range_end = static_cast<std::int32_t>(plan.ranges.size());
  if (!whole.seeds.empty()) plan.seeds.push_back(whole.seeds[static_cast<std::size_t>(row)]);
  attention(decoder_.context(), {.shape = decoder_.config().heads,
                                 .scale = decoder_.scale(),
                                 .q = q_.slice(row, 1),
                                 .cached = {},
                                 .fresh = scratch.view(),
                                 .plan = &plan,
                                 .out = attended_.slice(row, 1)});
  // To float32, in which products of one row accumulate.
  const Buffer index = to_device(decoder_.context(), std::vector<std::int32_t>{row});
  embed(decoder_.context(), {.table = request_.hidden, .ids = index.as<std::int32_t>(), .out = last_.view()});
  decoder_.finish_layer(layer_, attended_.slice(row, 1), last_.view());
}

void Prefill::finish_rows() {
  const std::int64_t rows = request_.hidden.rows;
  for (std::int64_t begin = 0; begin < rows; begin += request_.chunk) {
    check_stop();
    const std::int64_t count = std::min(request_.chunk, rows - begin);
    decoder_.finish_layer(layer_, attended_.slice(begin, count), request_.hidden.slice(begin, count));
  }
}

void Prefill::step(const LayerHook& hook, bool lse) {
  const bool is_last = layer_ + 1 == decoder_.config().layers;
  LayerScratch scratch(decoder_.context(), decoder_.config().heads, request_.hidden.rows, cache_.counter());
  project(scratch);
  check_stop();
  if (!is_last || request_.all_rows || lse) attend(scratch, lse);
  check_stop();
  const Observation observation{.layer = layer_,
                                .layers = decoder_.config().layers,
                                .shape = decoder_.config().heads,
                                .scale = decoder_.scale(),
                                .table = request_.table,
                                .q = q_.view(),
                                .kv = scratch.view(),
                                .lse = lse ? lse_.as<float>() : nullptr,
                                .gram = [this] { return decoder_.gram(layer_); }};
  const std::optional<CompactionPlan> plan = hook ? hook(observation) : std::nullopt;
  if (is_last) attend_last_row(scratch);
  cache_.apply(layer_, std::move(scratch), plan ? &*plan : nullptr);
  if (!is_last || request_.all_rows) finish_rows();
  // A GPU is kept at most two layers behind the host: enough work to queue, little enough to stop within a layer.
  Fence& fence = queued_[static_cast<std::size_t>(layer_ % 2)];
  fence.record(decoder_.context());
  queued_[static_cast<std::size_t>((layer_ + 1) % 2)].wait();
  ++layer_;
}

void Prefill::last_logits(const MatrixView& out) { decoder_.logits(last_.view(), out); }

}  // namespace purekv
