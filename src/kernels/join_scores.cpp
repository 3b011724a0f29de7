#include "kernels/join_scores.h"

#include <algorithm>
#include <limits>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

/// A term's columns of one head.
struct Columns {
  const float* a;
  const float* b;
  float operator[](std::int64_t j) const { return b == nullptr ? a[j] : a[j] * b[j]; }
};

Columns columns_of(const ScoreTerm& term, std::int64_t head) {
  return {term.a + head * term.a_stride, term.b == nullptr ? nullptr : term.b + head * term.b_stride};
}

/// score[j] = max(score[j], n(term)[j]) over visual rows.
void join_term(const JoinScoresParams& p, const Columns& term, float* score) {
  double sum = 0;
  for (std::int64_t j = 0; j < p.columns; ++j)
    if ((p.kind[j] & kVisualRow) != 0) sum += static_cast<double>(term[j]);
  if (!(sum > 0)) return;
  const auto divisor = static_cast<float>(sum);
  for (std::int64_t j = 0; j < p.columns; ++j)
    if ((p.kind[j] & kVisualRow) != 0) score[j] = std::max(score[j], term[j] / divisor);
}

}  // namespace

void join_scores(const Context& context, const JoinScoresParams& p) {
  PUREKV_ASSERT(p.count >= 1 && p.count <= 3);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::join_scores(context, p);
  parallel_for(context.threads, p.kv_heads, [&](std::int64_t h) {
    float* score = p.score + h * p.columns;
    if (p.normalise) {
      std::fill_n(score, p.columns, 0.0F);
      for (int t = 0; t < p.count; ++t) join_term(p, columns_of(p.terms[t], h), score);
    } else {
      const Columns term = columns_of(p.terms[0], h);
      for (std::int64_t j = 0; j < p.columns; ++j) score[j] = term[j];
    }
    for (std::int64_t j = 0; j < p.columns; ++j)
      if ((p.kind[j] & kForcedRow) != 0) score[j] = std::numeric_limits<float>::infinity();
  });
}

}  // namespace purekv
