#include "base/dtype.h"
#include "base/fail.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

/// Row copies: 4 * rows * head_dim elements of traffic a head, no arithmetic. A thread has four words of 16 bytes in
/// flight (4 bytes or 1 where the rows are not aligned to more); a warp's words of one row are neighbours.
namespace purekv::cuda {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kInFlight = 4;

/// One head's keys or values.
struct RowCopy {
  const void* from;
  void* to;
  const int* slots;
  unsigned rows, row_bytes;
};

/// Words [first, first + kThreads * kInFlight), counted over the target.
template <class Word>
__device__ void copy_words(const RowCopy& c, unsigned first) {
  const unsigned words = c.row_bytes / sizeof(Word);  // a row
  const unsigned count = c.rows * words;
  if (first >= count) return;
  Word held[kInFlight];
#pragma unroll
  for (unsigned i = 0; i < kInFlight; ++i) {
    // Past the end the last word again: no branch stands between the loads.
    const unsigned at = min(first + i * kThreads + threadIdx.x, count - 1);
    const unsigned row = at / words;
    const unsigned source = c.slots == nullptr ? row : static_cast<unsigned>(c.slots[row]);
    held[i] = __ldcs(static_cast<const Word*>(c.from) + static_cast<long long>(source) * words + (at - row * words));
  }
#pragma unroll
  for (unsigned i = 0; i < kInFlight; ++i) {
    const unsigned at = first + i * kThreads + threadIdx.x;
    if (at < count) static_cast<Word*>(c.to)[at] = held[i];
  }
}

struct GatherKernel {
  const KvRows* from;
  const KvRows* to;
  const int* slots;
  long long slot_stride;
  unsigned row_bytes;
};

/// Grid: words of the longest head, KV heads, keys and values. No shared memory.
template <class Word>
__global__ void __launch_bounds__(kThreads) copy_rows(GatherKernel p) {
  const KvRows& from = p.from[blockIdx.y];
  const KvRows& to = p.to[blockIdx.y];
  const RowCopy copy{blockIdx.z == 0 ? from.k : from.v, blockIdx.z == 0 ? to.k : to.v,
                     p.slots == nullptr ? nullptr : p.slots + blockIdx.y * p.slot_stride,
                     static_cast<unsigned>(to.rows), p.row_bytes};
  const unsigned first = blockIdx.x * kThreads * kInFlight;
  const auto addresses =
      reinterpret_cast<unsigned long long>(copy.from) | reinterpret_cast<unsigned long long>(copy.to);
  if (addresses % sizeof(Word) == 0) {
    copy_words<Word>(copy, first);
    return;
  }
  // A head's rows may begin anywhere.
  for (unsigned i = 0; i < sizeof(Word); ++i)
    copy_words<unsigned char>(copy, first * static_cast<unsigned>(sizeof(Word)) + i * kThreads * kInFlight);
}

template <class Word>
void launch(const Context& context, const GatherParams& params, const GatherKernel& p) {
  const std::int64_t words = params.most_rows * (p.row_bytes / static_cast<std::int64_t>(sizeof(Word)));
  const dim3 grid(static_cast<unsigned>(ceil_div(words, kThreads * kInFlight)),
                  static_cast<unsigned>(params.shape.kv_heads), 2);
  copy_rows<Word><<<grid, kThreads, 0, stream_of(context)>>>(p);
  check_launch("gathering rows");
}

}  // namespace

void gather_rows(const Context& context, const GatherParams& params) {
  const std::int64_t row_bytes = params.shape.head_dim * static_cast<std::int64_t>(size_of(params.dtype));
  PUREKV_ASSERT(params.most_rows * row_bytes < std::int64_t{1} << 32);  // words are counted in 32 bits
  const GatherKernel p{params.from, params.to, params.slots, params.slot_stride, static_cast<unsigned>(row_bytes)};
  if (row_bytes % 16 == 0) return launch<uint4>(context, params, p);
  if (row_bytes % 4 == 0) return launch<unsigned>(context, params, p);
  launch<unsigned char>(context, params, p);
}

}  // namespace purekv::cuda
