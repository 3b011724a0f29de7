#include <cooperative_groups.h>

#include <algorithm>

#include "device/buffer.h"
#include "device/transfer.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/ops.h"

/// Radix select in one cooperative launch: three sweeps count the digits of order-preserving keys (11 + 11 + 10 bits)
/// and fix the key of the last row that stays, a fourth counts what each stretch of rows keeps, a fifth writes the rows
/// in order. All blocks wait for each other between sweeps: 25 us on an H200, where four launches took 28. The scores
/// come from device memory once and from the second-level cache after that. No step depends on the order in which
/// blocks run: counts are integers, and a stretch's place is the sum of all counts before it.
namespace purekv::cuda {
namespace {

constexpr int kThreads = 512;
constexpr int kItems = 8;
constexpr int kStretch = kThreads * kItems;  ///< rows of one head that a block has at once
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 1 << 11;
constexpr int kDigits = 3;
constexpr unsigned kAll = 0xFFFFFFFFU;

struct TopRowsKernel {
  const float* score;
  long long rows, stride, slot_stride;
  unsigned count;
  int stretches;  ///< of a head
  int* slots;
  unsigned (*counts)[kDigits][kBins];  ///< [heads] zero before
  unsigned* kept;                      ///< [heads, stretches] rows above the last key, and equal to it << 16
};

/// The last key that stays, as far as its digits are known, and how many rows stay of those that share them.
struct Last {
  unsigned key = 0, room = 0;
};

/// Larger floats have larger keys; -0 is 0, NaN is below all.
__device__ unsigned key_of(float x) {
  if (x != x) return 0;
  const unsigned bits = x == 0 ? 0U : __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// Row of this thread's i-th key of a stretch.
__device__ long long row_of(int stretch, int i) {
  return static_cast<long long>(stretch) * kStretch + i * kThreads + threadIdx.x;
}

__device__ void load_keys(const TopRowsKernel& p, int stretch, unsigned (&keys)[kItems]) {
  const float* score = p.score + blockIdx.y * p.stride;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const long long row = row_of(stretch, i);
    keys[i] = row < p.rows ? key_of(score[row]) : 0;
  }
}

/// Counts the digit at `shift` of the keys whose bits from `known` up are the last key's.
__device__ void count_digit(const TopRowsKernel& p, int digit, unsigned last, int shift, int known, unsigned* bins) {
  for (int i = threadIdx.x; i < kBins; i += kThreads) bins[i] = 0;
  __syncthreads();
  for (int stretch = blockIdx.x; stretch < p.stretches; stretch += gridDim.x) {
    unsigned keys[kItems];
    load_keys(p, stretch, keys);
#pragma unroll
    for (int i = 0; i < kItems; ++i) {
      const bool shares = known == 32 || (keys[i] ^ last) >> known == 0;
      if (row_of(stretch, i) < p.rows && shares)
        atomicAdd(&bins[(keys[i] >> shift) & ((1U << (known - shift)) - 1)], 1U);
    }
  }
  __syncthreads();
  for (int i = threadIdx.x; i < kBins; i += kThreads)
    if (bins[i] != 0) atomicAdd(&p.counts[blockIdx.y][digit][i], bins[i]);
}

/// Sum over the warp's lower lanes, this one's left out.
__device__ unsigned scan_warp(unsigned value) {
  unsigned sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const unsigned other = __shfl_up_sync(kAll, sum, step);
    if (threadIdx.x % 32 >= static_cast<unsigned>(step)) sum += other;
  }
  return sum - value;
}

/// The bin, from the highest down, in which the last row that stays falls. Every block finds the same.
__device__ void choose_digit(const unsigned* counts, int shift, Last& last) {
  __shared__ unsigned sums[kWarps];
  __shared__ Last found;
  constexpr int kShare = kBins / kThreads;
  const int top = kBins - 1 - static_cast<int>(threadIdx.x) * kShare;  // this thread's highest bin
  unsigned own[kShare];
  unsigned total = 0;
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    own[i] = __ldcg(counts + top - i);
    total += own[i];
  }
  unsigned above = scan_warp(total);
  if (threadIdx.x % 32 == 31) sums[threadIdx.x / 32] = above + total;
  __syncthreads();
  for (unsigned w = 0; w < threadIdx.x / 32; ++w) above += sums[w];
#pragma unroll
  for (int i = 0; i < kShare; ++i) {
    if (above < last.room && last.room <= above + own[i])
      found = {last.key | static_cast<unsigned>(top - i) << shift, last.room - above};
    above += own[i];
  }
  __syncthreads();
  last = found;
}

/// Where the kept rows of a stretch go. Rows above the last key and rows equal to it are counted in two halves of one
/// word: a stretch has 4096 at most.
struct Places {
  unsigned counts[kItems][kWarps];  ///< before each item and warp
  unsigned total;
};

/// Fills `places`; returns this thread's flags: bit i above, bit 16 + i equal. `before` are its warp's lower lanes.
__device__ unsigned find_places(const TopRowsKernel& p, int stretch, unsigned last, unsigned (&before)[kItems],
                                Places& places) {
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  unsigned keys[kItems];
  load_keys(p, stretch, keys);
  unsigned flags = 0;
  __syncthreads();  // the places of the stretch before are read
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const bool there = row_of(stretch, i) < p.rows;
    const bool above = there && keys[i] > last;
    const bool equal = there && keys[i] == last;
    const unsigned all_above = __ballot_sync(kAll, above);
    const unsigned all_equal = __ballot_sync(kAll, equal);
    const unsigned lower = (1U << lane) - 1;
    before[i] = __popc(all_above & lower) | __popc(all_equal & lower) << 16;
    if (lane == 0) places.counts[i][warp] = __popc(all_above) | __popc(all_equal) << 16;
    flags |= (above ? 1U : 0U) << i | (equal ? 0x10000U : 0U) << i;
  }
  __syncthreads();
  if (warp == 0) {
    unsigned* flat = &places.counts[0][0];
    unsigned total = 0;
    for (int base = 0; base < kItems * kWarps; base += 32) {
      const unsigned own = flat[base + lane];
      const unsigned sum = scan_warp(own);
      flat[base + lane] = total + sum;
      total += __shfl_sync(kAll, sum + own, 31);
    }
    if (lane == 0) places.total = total;
  }
  __syncthreads();
  return flags;
}

/// Rows above and equal in the head's stretches before this one.
__device__ uint2 sum_earlier(const unsigned* kept, int stretch) {
  __shared__ unsigned above, equal;
  __syncthreads();
  if (threadIdx.x == 0) above = equal = 0;
  __syncthreads();
  uint2 own{0, 0};
  for (int i = threadIdx.x; i < stretch; i += kThreads) {
    const unsigned word = __ldcg(kept + i);
    own.x += word & 0xFFFFU;
    own.y += word >> 16;
  }
  if (own.x != 0) atomicAdd(&above, own.x);
  if (own.y != 0) atomicAdd(&equal, own.y);
  __syncthreads();
  return {above, equal};
}

/// All rows above the last key stay, and of those equal to it the lowest.
__device__ void write_rows(const TopRowsKernel& p, int stretch, const Last& last, const unsigned* kept,
                           Places& places) {
  unsigned before[kItems];
  const unsigned flags = find_places(p, stretch, last.key, before, places);
  const uint2 earlier = sum_earlier(kept, stretch);
  int* slots = p.slots + blockIdx.y * p.slot_stride;
#pragma unroll
  for (int i = 0; i < kItems; ++i) {
    const unsigned rank = places.counts[i][threadIdx.x / 32] + before[i];
    const unsigned above = earlier.x + (rank & 0xFFFFU);
    const unsigned equal = earlier.y + (rank >> 16);
    const bool stays = (flags >> i & 1U) != 0 || ((flags >> (16 + i) & 1U) != 0 && equal < last.room);
    if (stays) slots[above + min(equal, last.room)] = static_cast<int>(row_of(stretch, i));
  }
}

/// Grid: blocks of a head, heads; all of them run at once.
__global__ void __launch_bounds__(kThreads) select_rows(TopRowsKernel p) {
  __shared__ union {
    unsigned bins[kBins];
    Places places;
  } shared;
  const auto grid = cooperative_groups::this_grid();
  Last last{0, p.count};
  int known = 32;
  for (int digit = 0; digit < kDigits; ++digit) {
    const int shift = known == 32 ? 21 : known == 21 ? 10 : 0;
    count_digit(p, digit, last.key, shift, known, shared.bins);
    grid.sync();
    choose_digit(p.counts[blockIdx.y][digit], shift, last);
    known = shift;
  }
  unsigned* kept = p.kept + static_cast<long long>(blockIdx.y) * p.stretches;
  unsigned before[kItems];
  for (int stretch = blockIdx.x; stretch < p.stretches; stretch += gridDim.x) {
    find_places(p, stretch, last.key, before, shared.places);
    if (threadIdx.x == 0) kept[stretch] = shared.places.total;
  }
  grid.sync();
  for (int stretch = blockIdx.x; stretch < p.stretches; stretch += gridDim.x)
    write_rows(p, stretch, last, kept, shared.places);
}

/// Of a multiprocessor.
std::int64_t resident_blocks() {
  int blocks = 0;
  cuda_check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, select_rows, kThreads, 0), "sizing a launch");
  return blocks;
}

}  // namespace

void top_rows(const Context& context, const TopRowsParams& params) {
  const std::int64_t stretches = ceil_div(params.rows, kStretch);
  const std::int64_t counts = params.heads * static_cast<std::int64_t>(sizeof(unsigned[kDigits][kBins]));
  const Buffer work(context, counts + params.heads * stretches * static_cast<std::int64_t>(sizeof(unsigned)));
  fill_zero(context, work.data(), counts);
  TopRowsKernel p{.score = params.score,
                  .rows = params.rows,
                  .stride = params.stride,
                  .slot_stride = params.slot_stride,
                  .count = static_cast<unsigned>(params.count),
                  .stretches = static_cast<int>(stretches),
                  .slots = params.slots,
                  .counts = work.as<unsigned[kDigits][kBins]>(),
                  .kept = reinterpret_cast<unsigned*>(work.as<std::byte>() + counts)};
  static const std::int64_t resident = resident_blocks();
  const std::int64_t at_once = std::max<std::int64_t>(1, resident * context.cuda->sms / params.heads);
  const dim3 grid(static_cast<unsigned>(std::min(stretches, at_once)), static_cast<unsigned>(params.heads));
  void* arguments[] = {&p};
  cuda_check(cudaLaunchCooperativeKernel(reinterpret_cast<const void*>(select_rows), grid, dim3(kThreads), arguments, 0,
                                         stream_of(context)),
             "selecting the best rows");
}

}  // namespace purekv::cuda
