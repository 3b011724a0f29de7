#include "model/decode_session.h"

#include <utility>

#include "base/fail.h"
#include "device/transfer.h"
#include "kernels/decode_attention.h"
#include "kernels/decode_begin.h"

namespace purekv {
namespace {

/// Rows that a captured step leaves room for: a new capture costs milliseconds.
constexpr std::int64_t kRowsAhead = 1024;

}  // namespace

DecodeSession::DecodeSession(const Decoder& decoder, std::vector<KvCache*> caches,
                             std::span<const std::int32_t> positions)
    : decoder_(decoder), batch_(decoder.context(), std::move(caches)) {
  const Context& context = decoder.context();
  const TextConfig& config = decoder.config();
  const auto count = static_cast<std::int64_t>(positions.size());
  PUREKV_ASSERT(count == batch_.sequences() && count > 0);
  const std::int64_t half = config.heads.head_dim / 2;
  const std::int64_t angle_bytes = count * half * static_cast<std::int64_t>(sizeof(float));
  ids_ = to_device(context, std::vector<std::int32_t>(positions.size(), 0));
  positions_ = to_device(context, std::vector<std::int32_t>(positions.begin(), positions.end()));
  frequency_ = to_device(context, text_frequencies(config));
  cos_ = Buffer(context, angle_bytes);
  sin_ = Buffer(context, angle_bytes);
  hidden_ = Matrix(context, DType::kF32, count, config.hidden);
  attended_ = Matrix(context, context.activation(), count, config.heads.heads * config.heads.head_dim);
  logits_ = Matrix(context, DType::kF32, count, config.vocab);
  decoder.warm(count);
}

void DecodeSession::run_layer(std::int64_t layer) {
  const TextConfig& config = decoder_.config();
  const std::int64_t work_floats = work_.bytes() / static_cast<std::int64_t>(sizeof(float));
  decode_attention(decoder_.context(), {.shape = config.heads,
                                        .scale = decoder_.scale(),
                                        .qkv = decoder_.project(layer, hidden_.view()),
                                        .cos = cos_.as<float>(),
                                        .sin = sin_.as<float>(),
                                        .dtype = batch_.dtype(),
                                        .rows = batch_.table(layer),
                                        .most_rows = most_rows_,
                                        .out = attended_.view(),
                                        .work = {work_.data(), DType::kF32, 1, work_floats, work_floats}});
  decoder_.finish_layer(layer, attended_.view(), hidden_.view());
}

void DecodeSession::run_layers() {
  const Context& context = decoder_.context();
  decode_begin(context, {.table = decoder_.weights().embed,
                         .ids = ids(),
                         .positions = positions_.as<std::int32_t>(),
                         .inverse_frequency = frequency_.as<float>(),
                         .half = decoder_.config().heads.head_dim / 2,
                         .hidden = hidden_.view(),
                         .cos = cos_.as<float>(),
                         .sin = sin_.as<float>()});
  for (std::int64_t layer = 0; layer < decoder_.config().layers; ++layer) run_layer(layer);
  decoder_.logits(hidden_.view(), logits_.view());
  if (after_logits_) after_logits_();
  decode_end(context, {.rows = batch_.entries(),
                       .count = batch_.count(),
                       .positions = positions_.as<std::int32_t>(),
                       .sequences = batch_.sequences()});
}

void DecodeSession::step(std::span<const std::int32_t> tokens) {
  const Context& context = decoder_.context();
  batch_.prepare();
  if (batch_.most_rows() > most_rows_ || most_rows_ == 0) {
    most_rows_ = batch_.most_rows() + kRowsAhead;
    const std::int64_t floats = decode_attention_work(context, decoder_.config().heads, batch_.sequences(), most_rows_);
    work_ = Buffer();
    work_ = Buffer(context, floats * static_cast<std::int64_t>(sizeof(float)));
    fill_zero(context, work_.data(), work_.bytes());
    replay_ = Replay();
  }
  replay_.run(context, [this] { run_layers(); });
  batch_.appended(tokens);
}

}  // namespace purekv
