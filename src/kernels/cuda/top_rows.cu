#include <algorithm>

#include "device/buffer.h"
#include "device/transfer.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

/// Radix select. Three sweeps count the digits of order-preserving keys (11 + 11 + 10 bits) and fix the key of the last
/// row that stays; a fourth writes the rows in order. A block has 4096 rows of one head; the scores come from device
/// memory once and from the second-level cache after that: 4 * 4 bytes a row in all. No step depends on the order in
/// which blocks run: counts are integers, and a block's place is the sum of all counts before it.
namespace purekv::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kItems = 8;
constexpr int kBlockRows = kThreads * kItems;
constexpr int kWarps = kThreads / 32;
constexpr int kDigitBits = 11;
constexpr int kBins = 1 << kDigitBits;
constexpr int kSweeps = 3;
constexpr unsigned kAll = 0xFFFFFFFFU;

/// The lowest bit of each sweep's digit.
__device__ constexpr int shift_of(int sweep) { return sweep == 0 ? 21 : sweep == 1 ? 10 : 0; }

/// Of one head: what the sweeps leave each other. All zero before the first.
struct Selection {
  unsigned counts[kSweeps][kBins];
  unsigned done[kSweeps];  ///< blocks that have counted
  unsigned next_block;     ///< of the writing sweep, in the order in which blocks begin
  unsigned key;            ///< digits of the last key that stays, as far as they are known
  unsigned room;           ///< rows that stay among those whose key has these digits
};

struct TopRowsKernel {
  const float* score;
  long long rows, stride, slot_stride;
  unsigned count;
  int* slots;
  Selection* selections;      ///< [heads]
  unsigned long long* ranks;  ///< [heads, blocks] bit 63: there; rows above the key << 31; rows equal to it
};

/// Larger floats have larger keys; -0 is 0, NaN is below all.
__device__ unsigned key_of(float x) {
  if (x != x) return 0;
  const unsigned bits = x == 0 ? 0U : __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// The block's rows of a head, item by item: row = first + item * kThreads + thread. Rows past the end read as NaN.
__device__ void load_keys(const TopRowsKernel& p, int head, long long first, unsigned (&keys)[kItems]) {
  const float* score = p.score + head * p.stride;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const long long row = first + i * kThreads + threadIdx.x;
    keys[i] = row < p.rows ? key_of(score[row]) : 0;
  }
}

/// Exclusive sum over the block's threads; `sums` [kWarps] is free again after the next barrier.
__device__ unsigned scan_block(unsigned value, unsigned* sums) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  unsigned sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(kAll, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == 31) sums[warp] = sum;
  __syncthreads();
  unsigned before = 0;
  for (int w = 0; w < warp; ++w) before += sums[w];
  return before + sum - value;
}

/// The bin, from the highest down, in which the last row that stays falls.
__device__ void choose_digit(Selection& s, int sweep, unsigned room, unsigned* sums) {
  constexpr int kShare = kBins / kThreads;
  // Thread t has bins kBins - 1 - t * kShare and the next lower ones.
  const unsigned* counts = s.counts[sweep];
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kShare;
  unsigned own[kShare];
  unsigned total = 0;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    own[i] = __ldcg(counts + top - i);
    total += own[i];
  }
  unsigned above = scan_block(total, sums);
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    if (above < room && room <= above + own[i]) {
      s.key |= static_cast<unsigned>(top - i) << shift_of(sweep);
      s.room = room - above;
    }
    above += own[i];
  }
}

/// Counts one digit of the keys that share the higher ones; the head's last block to finish chooses the digit.
/// Shared memory: 8 KiB of bins. kSweep is the digit.
template <int kSweep>
__global__ void __launch_bounds__(kThreads) count_digits(TopRowsKernel p) {
  __shared__ unsigned bins[kBins];
  __shared__ unsigned sums[kWarps];
  __shared__ bool last;
  Selection& s = p.selections[blockIdx.y];
  for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
  __syncthreads();
  const long long first = static_cast<long long>(blockIdx.x) * kBlockRows;
  unsigned keys[kItems];
  load_keys(p, blockIdx.y, first, keys);
  constexpr int kShift = shift_of(kSweep);
  constexpr int kHigher = kSweep == 0 ? 32 : shift_of(kSweep - 1);
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool there = first + i * kThreads + threadIdx.x < p.rows;
    const bool shares = kSweep == 0 || ((keys[i] ^ s.key) >> (kHigher % 32)) == 0;
    if (there && shares) atomicAdd(&bins[(keys[i] >> kShift) % (1U << (kSweep == 2 ? 10 : 11))], 1U);
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads)
    if (bins[i] != 0) atomicAdd(&s.counts[kSweep][i], bins[i]);
  __threadfence();  // this block's counts are there before it says so
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(&s.done[kSweep], 1U) + 1 == gridDim.x;
  __syncthreads();
  if (!last) return;
  __threadfence();
  choose_digit(s, kSweep, kSweep == 0 ? p.count : s.room, sums);
}

/// Rows above the last key, and of those equal to it, in two halves of one word: a block has 4096 at most.
__device__ unsigned both(bool above, bool equal) { return (above ? 1U : 0U) | (equal ? 0x10000U : 0U); }

/// Sum over the head's earlier blocks: {above, equal}. They began earlier, so they are running or done.
__device__ uint2 sum_earlier(const unsigned long long* ranks, unsigned block) {
  unsigned above = 0;
  unsigned equal = 0;
  for (unsigned b = threadIdx.x; b < block; b += kThreads) {
    unsigned long long word = 0;
    while ((word >> 63) == 0) word = *static_cast<const volatile unsigned long long*>(ranks + b);
    above += static_cast<unsigned>(word >> 31) & 0x7FFFFFFFU;
    equal += static_cast<unsigned>(word) & 0x7FFFFFFFU;
  }
  for (int step = 16; step > 0; step /= 2) {
    above += __shfl_xor_sync(kAll, above, step);
    equal += __shfl_xor_sync(kAll, equal, step);
  }
  __shared__ unsigned sums[2][kWarps];
  if (threadIdx.x % 32 == 0) {
    sums[0][threadIdx.x / 32] = above;
    sums[1][threadIdx.x / 32] = equal;
  }
  __syncthreads();
  above = equal = 0;
  for (int w = 0; w < kWarps; ++w) {
    above += sums[0][w];
    equal += sums[1][w];
  }
  return {above, equal};
}

/// Writes the rows that stay: all above the last key, and of those equal to it the lowest. Their places follow from the
/// counts before them: in the block by ballots, of earlier blocks by what these have published.
__global__ void __launch_bounds__(kThreads) write_rows(TopRowsKernel p) {
  __shared__ unsigned counts[kItems][kWarps];  // then: before this warp and item
  __shared__ unsigned block_id;
  Selection& s = p.selections[blockIdx.y];
  unsigned long long* ranks = p.ranks + static_cast<long long>(blockIdx.y) * gridDim.x;
  if (threadIdx.x == 0) block_id = atomicAdd(&s.next_block, 1U);
  __syncthreads();
  const unsigned block = block_id;
  const long long first = static_cast<long long>(block) * kBlockRows;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const unsigned key = s.key;
  unsigned keys[kItems];
  load_keys(p, blockIdx.y, first, keys);
  unsigned before[kItems];  // of the warp's lower lanes, packed
  unsigned flags = 0;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool there = first + i * kThreads + threadIdx.x < p.rows;
    const bool above = there && keys[i] > key;
    const bool equal = there && keys[i] == key;
    const unsigned all_above = __ballot_sync(kAll, above);
    const unsigned all_equal = __ballot_sync(kAll, equal);
    const unsigned lower = (1U << lane) - 1;
    before[i] = __popc(all_above & lower) | __popc(all_equal & lower) << 16;
    if (lane == 0) counts[i][warp] = __popc(all_above) | __popc(all_equal) << 16;
    flags |= both(above, equal) << i;
  }
  __syncthreads();
  if (warp == 0) {
    unsigned* flat = &counts[0][0];
    unsigned total = 0;
    for (int base = 0; base < kItems * kWarps; base += 32) {
      const unsigned own = flat[base + lane];
      unsigned sum = own;
      for (int step = 1; step < 32; step *= 2) {
        const unsigned other = __shfl_up_sync(kAll, sum, step);
        if (lane >= step) sum += other;
      }
      flat[base + lane] = total + sum - own;
      total += __shfl_sync(kAll, sum, 31);
    }
    if (lane == 0)
      atomicExch(ranks + block, 1ULL << 63 | static_cast<unsigned long long>(total & 0xFFFFU) << 31 | total >> 16);
  }
  const uint2 earlier = sum_earlier(ranks, block);
  int* slots = p.slots + blockIdx.y * p.slot_stride;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const unsigned rank = counts[i][warp] + before[i];
    const unsigned above = earlier.x + (rank & 0xFFFFU);
    const unsigned equal = earlier.y + (rank >> 16);
    const bool stays = (flags >> i & 1U) != 0 || ((flags >> (16 + i) & 1U) != 0 && equal < s.room);
    if (stays) slots[above + min(equal, s.room)] = static_cast<int>(first + i * kThreads + threadIdx.x);
  }
}

}  // namespace

void top_rows(const Context& context, const TopRowsParams& params) {
  const auto blocks = static_cast<unsigned>(ceil_div(params.rows, kBlockRows));
  const std::int64_t state = params.heads * static_cast<std::int64_t>(sizeof(Selection));
  const std::int64_t ranks = params.heads * blocks * static_cast<std::int64_t>(sizeof(unsigned long long));
  const Buffer work(context, state + ranks);
  fill_zero(context, work.data(), work.bytes());
  const TopRowsKernel p{params.score,
                        params.rows,
                        params.stride,
                        params.slot_stride,
                        static_cast<unsigned>(params.count),
                        params.slots,
                        work.as<Selection>(),
                        reinterpret_cast<unsigned long long*>(work.as<std::byte>() + state)};
  const dim3 grid(blocks, static_cast<unsigned>(params.heads));
  cudaStream_t stream = stream_of(context);
  count_digits<0><<<grid, kThreads, 0, stream>>>(p);
  check_launch("counting scores");
  count_digits<1><<<grid, kThreads, 0, stream>>>(p);
  check_launch("counting scores");
  count_digits<2><<<grid, kThreads, 0, stream>>>(p);
  check_launch("counting scores");
  write_rows<<<grid, kThreads, 0, stream>>>(p);
  check_launch("writing the best rows");
}

}  // namespace purekv::cuda
