#include "kernels/choose_token.h"

#include "base/fail.h"
#include "kernels/cuda/chained.cuh"
#include "kernels/cuda/choose_token.cuh"
#include "kernels/cuda/ops.h"

namespace purekv::cuda {
namespace {

/// blockIdx.y: the sequence. Reads 4 vocab bytes of logits a sequence (and vocab of marks) once.
__global__ void __launch_bounds__(kChooseThreads)
    scan_logits_kernel(const float* logits, std::int64_t stride, int vocab, const std::uint8_t* seen, float penalty,
                       ChoosePart* parts) {
  wait_for_previous();
  let_next_start();
  const std::int64_t sequence = blockIdx.y;
  const std::uint8_t* marks = seen == nullptr ? nullptr : seen + sequence * vocab;
  ChoosePart part;
#pragma unroll 4
  for (int i = static_cast<int>(blockIdx.x) * kChooseThreads + static_cast<int>(threadIdx.x); i < vocab;
       i += kChooseParts * kChooseThreads) {
    const float x = logits[sequence * stride + i];
    if (!isfinite(x)) part.bad = min(part.bad, i);
    part.best = max(part.best, choice_key(penalised(x, marks, i, penalty), i));
  }
  join_block(part, parts + sequence * kChooseParts + blockIdx.x);
}

/// One warp a sequence.
__global__ void __launch_bounds__(32)
    choose_best_kernel(const ChoosePart* parts, int vocab, std::uint8_t* seen, std::int32_t* ids) {
  wait_for_previous();
  let_next_start();
  const std::int64_t sequence = blockIdx.x;
  ChoosePart part;
  for (int i = static_cast<int>(threadIdx.x); i < kChooseParts; i += 32) {
    const ChoosePart other = parts[sequence * kChooseParts + i];
    part.best = max(part.best, other.best);
    part.bad = min(part.bad, other.bad);
  }
  part = join_lanes(part);
  if (threadIdx.x != 0) return;
  const int id = static_cast<int>(~static_cast<std::uint32_t>(part.best));
  const bool finite = part.bad >= vocab;
  ids[sequence] = finite ? id : -1 - part.bad;
  if (finite && seen != nullptr) seen[sequence * vocab + id] = 1;
}

}  // namespace

void choose_token(const Context& context, const ChooseTokenParams& params) {
  const ConstMatrixView& logits = params.logits;
  PUREKV_ASSERT(logits.dtype == DType::kF32 && logits.rows > 0 && logits.cols > 0);
  if (params.temperature > 0) return choose_sampled(context, params);
  auto* parts = static_cast<ChoosePart*>(params.work.data);
  const auto sequences = static_cast<unsigned>(logits.rows);
  const int vocab = static_cast<int>(logits.cols);
  const std::uint8_t* seen = params.penalty == 1.0F ? nullptr : params.seen;
  launch_chained(context, scan_logits_kernel, dim3(kChooseParts, sequences), kChooseThreads, 0,
                 static_cast<const float*>(logits.data), logits.stride, vocab, seen, params.penalty, parts);
  launch_chained(context, choose_best_kernel, dim3(sequences), 32, 0, static_cast<const ChoosePart*>(parts), vocab,
                 params.seen, params.ids);
}

}  // namespace purekv::cuda
