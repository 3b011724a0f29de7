#include <algorithm>

#include "device/buffer.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

/// Two passes over at most six arrays: sums in double, in blocks of fixed rows and in one order; then the maxima. About
/// 2 * 25 bytes a column and head, which the second-level cache holds.
namespace purekv::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kParts = 32;  ///< blocks a head and term that share a sum

struct JoinKernel {
  JoinScoresParams p;
  double* parts;  ///< [kv_heads, terms, kParts]
};

/// Term t of head h at column j.
__device__ float value_of(const JoinScoresParams& p, int t, int h, long long j) {
  const ScoreTerm& term = p.terms[t];
  const float a = term.a[h * term.a_stride + j];
  return term.b == nullptr ? a : a * term.b[h * term.b_stride + j];
}

/// One part of a term's sum over visual columns: part i has columns i * kThreads + thread, then every kParts-th such
/// stretch. Threads are added as a tree.
__global__ void __launch_bounds__(kThreads) sum_terms(JoinKernel kernel) {
  const JoinScoresParams& p = kernel.p;
  __shared__ double sums[kThreads];
  const int part = blockIdx.x;
  double sum = 0;
  for (long long j = part * kThreads + threadIdx.x; j < p.columns; j += kParts * kThreads)
    if ((p.kind[j] & kVisualRow) != 0) sum += static_cast<double>(value_of(p, blockIdx.y, blockIdx.z, j));
  sums[threadIdx.x] = sum;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) kernel.parts[(blockIdx.z * p.count + blockIdx.y) * kParts + part] = sums[0];
}

__global__ void __launch_bounds__(kThreads) join_terms(JoinKernel kernel) {
  const JoinScoresParams& p = kernel.p;
  const int h = blockIdx.y;
  __shared__ float divisors[3];  ///< 0: the term counts as nothing
  if (p.normalise && threadIdx.x < p.count) {
    double sum = 0;
    for (int i = 0; i < kParts; ++i) sum += kernel.parts[(h * p.count + threadIdx.x) * kParts + i];
    divisors[threadIdx.x] = sum > 0 ? static_cast<float>(sum) : 0.0F;
  }
  __syncthreads();
  const long long j = static_cast<long long>(blockIdx.x) * kThreads + threadIdx.x;
  if (j >= p.columns) return;
  float score = 0;
  if (!p.normalise) {
    score = value_of(p, 0, h, j);
  } else if ((p.kind[j] & kVisualRow) != 0) {
    for (int t = 0; t < p.count; ++t)
      if (divisors[t] > 0) score = fmaxf(score, value_of(p, t, h, j) / divisors[t]);
  }
  if ((p.kind[j] & kForcedRow) != 0) score = __int_as_float(0x7F800000);
  p.score[h * p.columns + j] = score;
}

}  // namespace

void join_scores(const Context& context, const JoinScoresParams& params) {
  if (params.columns == 0) return;
  const auto heads = static_cast<unsigned>(params.kv_heads);
  const Buffer parts(context, params.kv_heads * params.count * kParts * static_cast<std::int64_t>(sizeof(double)));
  const JoinKernel kernel{params, parts.as<double>()};
  if (params.normalise) {
    sum_terms<<<dim3(kParts, static_cast<unsigned>(params.count), heads), kThreads, 0, stream_of(context)>>>(kernel);
    check_launch("summing scores");
  }
  const dim3 grid(static_cast<unsigned>(ceil_div(params.columns, kThreads)), heads);
  join_terms<<<grid, kThreads, 0, stream_of(context)>>>(kernel);
  check_launch("joining scores");
}

}  // namespace purekv::cuda
