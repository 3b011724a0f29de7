#include "select/layer_scores.h"

#include "kernels/join_scores.h"
#include "kernels/score.h"
#include "kernels/value_norm.h"
#include "select/budget.h"

namespace purekv {
namespace {

ScoreTerm product(const ScoreArray& a, const ScoreArray& b) {
  return {.a = a.data(), .b = b.data(), .a_stride = a.stride, .b_stride = b.stride};
}

/// The window's log-sum-exps are in the observation where its rows are text: those see all rows before them, whatever
/// the layer's pattern.
void add_window(const Context& context, const Observation& seen, const ScoreRequest& request, LayerScores& scores) {
  const bool all_text = request.window <= seen.table->rows - seen.table->question_start;
  window_score(context, {.shape = seen.shape,
                         .scale = seen.scale,
                         .q = seen.q,
                         .kv = seen.kv,
                         .window = request.window,
                         .row_max = request.options.row_reduce == RowReduce::kMax,
                         .group_max = request.options.gqa_reduce == GqaReduce::kMax,
                         .lse = all_text ? seen.lse : nullptr,
                         .out = scores.window.take(context, seen.shape.kv_heads, seen.table->rows - request.window)});
}

/// Value norms over all rows, as the options and the score ask for them.
void add_norms(const Context& context, const Observation& seen, const ScoreRequest& request, LayerScores& scores) {
  const bool frame = is_frame_score(request.options.score);
  if (!frame && request.options.vnorm == ValueNorm::kOff) return;
  const bool is_l2 = !frame && request.options.vnorm == ValueNorm::kL2;
  float* norm = scores.vnorm.take(context, seen.shape.kv_heads, seen.table->rows);
  float* nov = frame ? scores.nov.take(context, seen.shape.kv_heads, seen.table->rows) : nullptr;
  const GramView gram = is_l2 ? GramView{} : seen.gram();
  value_norm(context, {.shape = seen.shape,
                       .kv = seen.kv,
                       .gram = gram.data,
                       .packed = gram.packed,
                       .table = seen.table,
                       .l2 = is_l2 ? norm : nullptr,
                       .out = is_l2 ? nullptr : norm,
                       .nov = nov});
}

void add_frame_terms(const Context& context, const Observation& seen, LayerScores& scores) {
  frame_score(context, {.shape = seen.shape,
                        .scale = seen.scale,
                        .table = seen.table,
                        .q = seen.q,
                        .kv = seen.kv,
                        .lse = seen.lse,
                        .local = scores.local.take(context, seen.shape.kv_heads, seen.table->rows),
                        .self = scores.self.take(context, seen.shape.kv_heads, seen.table->rows)});
}

}  // namespace

float* ScoreArray::take(const Context& context, std::int64_t kv_heads, std::int64_t columns) {
  if (empty()) memory = Buffer(context, kv_heads * columns * static_cast<std::int64_t>(sizeof(float)));
  stride = columns;
  return memory.as<float>();
}

void score_layer(const Context& context, const Observation& seen, const ScoreRequest& request, LayerScores& scores) {
  check_score_shape(context, seen.shape);
  const bool asks = request.options.score != Score::kFrame;
  const bool frame = is_frame_score(request.options.score);
  if (asks && request.borrowed == nullptr) add_window(context, seen, request, scores);
  add_norms(context, seen, request, scores);
  if (frame) add_frame_terms(context, seen, scores);
  const ScoreArray& asked = request.borrowed != nullptr ? *request.borrowed : scores.window;
  const std::int64_t columns = seen.table->rows - request.window;
  JoinScoresParams join{.kv_heads = seen.shape.kv_heads,
                        .columns = columns,
                        .kind = request.kind,
                        .normalise = frame,
                        .score = scores.score.take(context, seen.shape.kv_heads, columns)};
  const auto add = [&join](const ScoreTerm& term) { join.terms[join.count++] = term; };
  if (asks) add(product(asked, scores.vnorm));
  if (frame) add(product(scores.self, scores.vnorm));
  if (frame) add(product(scores.local, scores.nov));
  join_scores(context, join);
}

}  // namespace purekv
