#include "select/layer_scores.h"

#include <algorithm>

#include "kernels/score.h"
#include "kernels/value_norm.h"
#include "select/budget.h"

namespace purekv {
namespace {

/// [kv_heads][l] -> [kv_heads][columns].
std::vector<float> first_columns(const std::vector<float>& all, std::int64_t kv_heads, std::int64_t columns) {
  const std::int64_t rows = static_cast<std::int64_t>(all.size()) / kv_heads;
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(kv_heads * columns));
  for (std::int64_t h = 0; h < kv_heads; ++h)
    out.insert(out.end(), all.begin() + h * rows, all.begin() + h * rows + columns);
  return out;
}

std::vector<float> window_columns(const Context& context, const Observation& seen, const ScoreRequest& request) {
  std::vector<float> out(static_cast<std::size_t>(seen.shape.kv_heads * (seen.table->rows - request.window)));
  window_score(context, {.shape = seen.shape,
                         .scale = seen.scale,
                         .q = seen.q,
                         .kv = seen.kv,
                         .window = request.window,
                         .row_max = request.options.row_reduce == RowReduce::kMax,
                         .group_max = request.options.gqa_reduce == GqaReduce::kMax,
                         .out = out.data()});
  return out;
}

/// Value norms over all rows, as the options and the score ask for them.
void add_norms(const Context& context, const Observation& seen, const ScoreRequest& request, LayerScores& scores) {
  const std::int64_t kv_heads = seen.shape.kv_heads;
  const std::int64_t columns = seen.table->rows - request.window;
  const bool frame = is_frame_score(request.options.score);
  if (!frame && request.options.vnorm == ValueNorm::kOff) return;
  const bool is_l2 = !frame && request.options.vnorm == ValueNorm::kL2;
  std::vector<float> norm(static_cast<std::size_t>(kv_heads * seen.table->rows));
  std::vector<float> nov(frame ? norm.size() : 0);
  value_norm(context, {.shape = seen.shape,
                       .kv = seen.kv,
                       .gram = is_l2 ? nullptr : seen.gram().data,
                       .table = seen.table,
                       .l2 = is_l2 ? norm.data() : nullptr,
                       .out = is_l2 ? nullptr : norm.data(),
                       .nov = frame ? nov.data() : nullptr});
  scores.vnorm = first_columns(norm, kv_heads, columns);
  if (frame) scores.nov = first_columns(nov, kv_heads, columns);
}

void add_frame_terms(const Context& context, const Observation& seen, const ScoreRequest& request,
                     LayerScores& scores) {
  std::vector<float> local(static_cast<std::size_t>(seen.shape.kv_heads * seen.table->rows));
  std::vector<float> self(local.size());
  frame_score(context, {.shape = seen.shape,
                        .scale = seen.scale,
                        .table = seen.table,
                        .q = seen.q,
                        .kv = seen.kv,
                        .lse = seen.lse,
                        .local = local.data(),
                        .self = self.data()});
  const std::int64_t columns = seen.table->rows - request.window;
  scores.local = first_columns(local, seen.shape.kv_heads, columns);
  scores.self = first_columns(self, seen.shape.kv_heads, columns);
}

/// score[j] = max(score[j], n(a * b)[j]) over a head's visual rows, n(x) = x / sum of x.
void join(const Observation& seen, const float* a, const float* b, std::int64_t columns, float* score) {
  double sum = 0;
  for (std::int64_t j = 0; j < columns; ++j)
    if (!seen.table->is_text(static_cast<std::int32_t>(j))) sum += static_cast<double>(a[j] * b[j]);
  if (!(sum > 0)) return;
  const auto divisor = static_cast<float>(sum);
  for (std::int64_t j = 0; j < columns; ++j)
    if (!seen.table->is_text(static_cast<std::int32_t>(j))) score[j] = std::max(score[j], a[j] * b[j] / divisor);
}

}  // namespace

LayerScores score_layer(const Context& context, const Observation& seen, const ScoreRequest& request) {
  const bool frame = is_frame_score(request.options.score);
  const std::int64_t columns = seen.table->rows - request.window;
  LayerScores scores;
  if (request.options.score != Score::kFrame && request.borrowed == nullptr)
    scores.window = window_columns(context, seen, request);
  const float* asked = request.borrowed != nullptr ? request.borrowed : scores.window.data();
  add_norms(context, seen, request, scores);
  const auto size = static_cast<std::size_t>(seen.shape.kv_heads * columns);
  scores.score.assign(size, 0.0F);
  if (!frame) {
    for (std::size_t i = 0; i < size; ++i)
      scores.score[i] = scores.vnorm.empty() ? asked[i] : asked[i] * scores.vnorm[i];
    return scores;
  }
  add_frame_terms(context, seen, request, scores);
  for (std::int64_t h = 0; h < seen.shape.kv_heads; ++h) {
    const std::int64_t at = h * columns;
    float* score = scores.score.data() + at;
    if (request.options.score != Score::kFrame) join(seen, asked + at, scores.vnorm.data() + at, columns, score);
    join(seen, scores.self.data() + at, scores.vnorm.data() + at, columns, score);
    join(seen, scores.local.data() + at, scores.nov.data() + at, columns, score);
  }
  return scores;
}

}  // namespace purekv
