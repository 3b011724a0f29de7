#include <cub/device/device_radix_sort.cuh>

#include "base/fail.h"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/choose_token.cuh"
#include "kernels/cuda/choose_token.h"

namespace purekv::cuda {
namespace {

constexpr int kDrawThreads = 1024;
using SortKey = unsigned long long;

/// Where the parts of one call's work lie, in bytes. All start on 16 bytes.
struct SampledWork {
  std::int64_t parts, keys[2], ids[2], sort, sort_bytes, total;

  SampledWork(std::int64_t sequences, std::int64_t vocab) {
    const std::int64_t count = ceil_div(sequences * vocab, 4) * 4;
    parts = 0;
    keys[0] = sequences * kChooseParts * static_cast<std::int64_t>(sizeof(ChoosePart));
    keys[1] = keys[0] + count * 8;
    ids[0] = keys[1] + count * 8;
    ids[1] = ids[0] + count * 4;
    sort = ids[1] + count * 4;
    // The sort keeps 256 counters a tile of at least 1024 keys beside its histograms.
    sort_bytes = count + (4LL << 20U);
    total = sort + sort_bytes;
  }
};

/// blockIdx.y: the sequence. Keys that sort ascending by sequence, then descending by logit; the sort is stable, so
/// equals stay in the order of their ids.
__global__ void __launch_bounds__(kChooseThreads)
    make_keys_kernel(const float* logits, std::int64_t stride, int vocab, const std::uint8_t* seen, float penalty,
                     ChoosePart* parts, SortKey* keys, std::int32_t* ids) {
  const std::int64_t sequence = blockIdx.y;
  const std::uint8_t* marks = seen == nullptr ? nullptr : seen + sequence * vocab;
  ChoosePart part;
  for (int i = static_cast<int>(blockIdx.x) * kChooseThreads + static_cast<int>(threadIdx.x); i < vocab;
       i += kChooseParts * kChooseThreads) {
    const float x = logits[sequence * stride + i];
    if (!isfinite(x)) part.bad = min(part.bad, i);
    const std::uint32_t bits = ordered_bits(penalised(x, marks, i, penalty));
    keys[sequence * vocab + i] = static_cast<SortKey>(sequence) << 32 | static_cast<std::uint32_t>(~bits);
    ids[sequence * vocab + i] = i;
  }
  join_block(part, parts + sequence * kChooseParts + blockIdx.x);
}

/// One sequence's sorted logits as masses; thread i owns the i-th run of `run` of them.
struct SortedMass {
  const SortKey* keys;
  float temperature;
  int count, run;

  [[nodiscard]] __device__ float logit(int i) const { return from_ordered_bits(~static_cast<std::uint32_t>(keys[i])); }
  [[nodiscard]] __device__ double mass(int i) const {
    return static_cast<double>(expf((logit(i) - logit(0)) / temperature));
  }
  [[nodiscard]] __device__ int begin(int thread) const { return min(count, thread * run); }
};

/// Leaves in `sums` [kDrawThreads] each thread's value plus all lower threads'. The order of additions is fixed.
__device__ void add_up(double value, double* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = value;
  __syncthreads();
  double upto = value;
  for (int step = 1; step < kDrawThreads; step *= 2) {
    const double other = thread >= step ? sums[thread - step] : 0.0;
    __syncthreads();
    upto += other;
    sums[thread] = upto;
    __syncthreads();
  }
}

struct DrawParams {
  const ChoosePart* parts;
  const SortKey* keys;
  const std::int32_t* order;
  int vocab, count;
  float temperature;
  double top_p;
  const double* uniform;
  std::uint8_t* seen;
  std::int32_t* ids;
};

/// One block a sequence: total mass, the shortest prefix with top_p of it, then the point drawn within that prefix.
/// The masses are float32 exponentials summed in double; engine/sampler.h has them in double throughout.
__global__ void __launch_bounds__(kDrawThreads) draw_kernel(const DrawParams p) {
  __shared__ double sums[kDrawThreads];
  __shared__ int end, chosen, bad;
  __shared__ double kept;
  const std::int64_t sequence = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x);
  const SortedMass sorted{.keys = p.keys + sequence * p.vocab,
                          .temperature = p.temperature,
                          .count = p.count,
                          .run = (p.count + kDrawThreads - 1) / kDrawThreads};
  const int first = sorted.begin(thread);
  const int last = sorted.begin(thread + 1);
  double own = 0;
  for (int i = first; i < last; ++i) own += sorted.mass(i);
  add_up(own, sums);
  // Neighbouring runs take their common border from the same sum, so that a point lies in one run and one only.
  const double before = thread == 0 ? 0.0 : sums[thread - 1];
  const double after = sums[thread];
  const double total = sums[kDrawThreads - 1];
  if (thread == 0) end = p.count, kept = total, bad = p.vocab;
  __syncthreads();
  if (thread < kChooseParts) atomicMin(&bad, p.parts[sequence * kChooseParts + thread].bad);
  const double limit = p.top_p * total;
  if (first < last && (before < limit || first == 0) && after >= limit) {
    double sum = before;
    int i = first;
    while (i < last && (i == 0 || sum < limit)) sum += sorted.mass(i++);
    end = i;
    kept = sum;
  }
  __syncthreads();
  if (thread == 0) chosen = end - 1;
  __syncthreads();
  const double point = p.uniform[sequence] * kept;
  if (first < last && before <= point && point < after) {
    double sum = before;
    int i = first;
    while (i < last && (sum += sorted.mass(i)) <= point) ++i;
    if (i < end) chosen = i;
  }
  __syncthreads();
  if (thread != 0) return;
  const int id = p.order[sequence * p.vocab + chosen];
  p.ids[sequence] = bad < p.vocab ? -1 - bad : id;
  if (bad >= p.vocab && p.seen != nullptr) p.seen[sequence * p.vocab + id] = 1;
}

}  // namespace

std::int64_t choose_token_work(std::int64_t sequences, std::int64_t vocab) {
  return ceil_div(SampledWork(sequences, vocab).total, 4);
}

void choose_sampled(const Context& context, const ChooseTokenParams& params) {
  const ConstMatrixView& logits = params.logits;
  const SampledWork at(logits.rows, logits.cols);
  auto* work = static_cast<std::byte*>(params.work.data);
  auto* parts = reinterpret_cast<ChoosePart*>(work + at.parts);
  cub::DoubleBuffer<SortKey> keys(reinterpret_cast<SortKey*>(work + at.keys[0]),
                                  reinterpret_cast<SortKey*>(work + at.keys[1]));
  cub::DoubleBuffer<std::int32_t> order(reinterpret_cast<std::int32_t*>(work + at.ids[0]),
                                        reinterpret_cast<std::int32_t*>(work + at.ids[1]));
  const auto sequences = static_cast<unsigned>(logits.rows);
  const int vocab = static_cast<int>(logits.cols);
  make_keys_kernel<<<dim3(kChooseParts, sequences), kChooseThreads, 0, stream_of(context)>>>(
      static_cast<const float*>(logits.data), logits.stride, vocab, params.penalty == 1.0F ? nullptr : params.seen,
      params.penalty, parts, keys.Current(), order.Current());
  check_launch("making sort keys");
  int sequence_bits = 0;
  while ((1LL << sequence_bits) < logits.rows) ++sequence_bits;
  const std::int64_t count = logits.rows * logits.cols;
  std::size_t needed = 0;
  cuda_check(
      cub::DeviceRadixSort::SortPairs(nullptr, needed, keys, order, count, 0, 32 + sequence_bits, stream_of(context)),
      "sizing a sort");
  PUREKV_ASSERT(static_cast<std::int64_t>(needed) <= at.sort_bytes);
  cuda_check(cub::DeviceRadixSort::SortPairs(work + at.sort, needed, keys, order, count, 0, 32 + sequence_bits,
                                             stream_of(context)),
             "sorting logits");
  const int most = params.top_k > 0 && params.top_k < logits.cols ? static_cast<int>(params.top_k) : vocab;
  draw_kernel<<<sequences, kDrawThreads, 0, stream_of(context)>>>({.parts = parts,
                                                                   .keys = keys.Current(),
                                                                   .order = order.Current(),
                                                                   .vocab = vocab,
                                                                   .count = most,
                                                                   .temperature = params.temperature,
                                                                   .top_p = params.top_p,
                                                                   .uniform = params.uniform,
                                                                   .seen = params.seen,
                                                                   .ids = params.ids});
  check_launch("drawing a token");
}

}  // namespace purekv::cuda
