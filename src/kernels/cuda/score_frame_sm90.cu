#include "kernels/cuda/score_frame_sm90.h"

#include <algorithm>
#include <type_traits>

#include "base/fail.h"
#include "kernels/cuda/score_frame_sm90.cuh"
#include "kernels/cuda/score_tiles.cuh"
#include "kernels/cuda/tensor_map.h"

namespace purekv::cuda {
namespace frames {

/// A consumer warpgroup of an item: 256 packed query rows of one frame and KV head, twice against the frame's keys.
/// Pass 1 has queries as the product's rows, 64 a warpgroup, so that a row's log-sum-exp is a sum in registers. Pass 2
/// has keys as its rows, so that a key's maximum over queries is one: a pair of warpgroups has the 128 queries that it
/// summed, each of the two 64 keys of a step. Pairs share the stages of keys and nothing else: exponentials of one run
/// beside products of the other.
template <int D>
class Scorer {
 public:
  using L = Layout<D>;
  __device__ Scorer(const Params& params, const Shared<D>& shared)
      : p_(params),
        s_(shared),
        warpgroup_(static_cast<int>(threadIdx.x) / 128),
        turns_(kTurnBarriers, warpgroup_),
        row_(static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4),
        pair_(2 * (static_cast<int>(threadIdx.x) % 4)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) cell_[r] = (warpgroup_ * kWarpgroupRows + row_ + 8 * r) / p_.group;
  }

  __device__ void run() {
    unsigned loads = 0;
    for (unsigned n = 0;; ++n) {
      hopper::barrier_wait(s_.q_full(n), n / kSlots % 2);
      const Item item = *s_.item(n);
      if (item.end == 0) return;
      const KeyLoads keys(item);
      float2* table = s_.table(n);
      const float whole = whole_lse(item);
      sum_rows(item, keys, n, loads);
      if (threadIdx.x % (2 * kPairRows) < kPairRows) table[table_row()].y = -whole;
      hopper::named_sync(kPairBarriers + warpgroup_ / 2, 256);
      best_keys(item, keys, n, loads);
      loads += keys.count();
    }
  }

 private:
  /// The first warpgroup of a pair looks up a row a thread.
  __device__ static int table_row() {
    return static_cast<int>(threadIdx.x) / (2 * kPairRows) * kPairRows + static_cast<int>(threadIdx.x) % kPairRows;
  }
  /// Cells of the frame below what `rows` packed rows of the item see.
  __device__ int cells_below(const Item& item, int rows) const {
    return min(item.end, item.first + (rows - 1) / p_.group + 1);
  }
  __device__ int rows_of(const Item& item) const { return (item.end - item.first) * p_.group; }

  /// Of this thread's table row: the base-2 log-sum-exp of all that it sees; +inf past the item's end, so that no key's
  /// maximum comes from there.
  __device__ float whole_lse(const Item& item) const {
    const int row = table_row();
    if (warpgroup_ % 2 != 0 || row >= rows_of(item) || p_.lse == nullptr) return INFINITY;
    const int cell = row / p_.group;
    return p_.lse[(item.head * p_.group + row - cell * p_.group) * p_.rows + item.start + item.first + cell] * kLog2E;
  }

  /// s = A B^T: 64 rows, and two accumulators a column. Chunks of the operands lie so many bytes apart.
  template <int kColumns, int kAChunk, int kBChunk>
  __device__ __forceinline__ void multiply(float (&s)[kColumns / 2], std::uint32_t a_rows, std::uint32_t b_rows) const {
    const std::uint64_t a = hopper::swizzled_operand(a_rows, 16);
    const std::uint64_t b = hopper::swizzled_operand(b_rows, 16);
    turns_.take();
    hopper::wgmma_fence();
    hopper::multiply_shared<kColumns>(s, a, b, 0);
#pragma unroll
    for (int n = 1; n < D / 16; ++n) {
      if (n == D / 16 - 2) hopper::wgmma_commit();
      const int in_chunk = n % 4 * 2;  // 16 dims are 32 bytes, 64 end a chunk
      hopper::multiply_shared<kColumns>(s, a + (n / 4 * kAChunk >> 4) + in_chunk, b + (n / 4 * kBChunk >> 4) + in_chunk,
                                        1);
    }
    hopper::wgmma_commit();
    hopper::wgmma_wait<1>();
    turns_.pass();
    hopper::wgmma_wait<0>();
    hopper::pin(s);
  }

  /// Calls body(constant) with `count` columns, rounded up to the sizes of products.
  template <class Body>
  __device__ __forceinline__ static void with_columns(int count, const Body& body) {
    if (count > 96)
      body(std::integral_constant<int, 128>());
    else if (count > 64)
      body(std::integral_constant<int, 96>());
    else if (count > 32)
      body(std::integral_constant<int, 64>());
    else
      body(std::integral_constant<int, 32>());
  }

  __device__ __forceinline__ static void release(std::uint32_t barrier) {
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(barrier);
  }

  /// Pass 1. A thread's sums are over the columns that it sees; its quad meets at the end.
  __device__ __forceinline__ void sum_rows(const Item& item, const KeyLoads& keys, unsigned n, unsigned loads) const {
    const int first_row = warpgroup_ * kWarpgroupRows;
    const int rows = rows_of(item);
    const int end = first_row < rows ? cells_below(item, first_row + kWarpgroupRows) : 0;
    const int least = item.first + first_row / p_.group;  // what the first row sees, at least
    const std::uint32_t queries = s_.queries(n) + first_row * 128;
    float top[2] = {kNoLogit, kNoLogit};
    float sum[2] = {0, 0};
    for (int step = 0; step < keys.steps; ++step) {
      const unsigned load = loads + step;
      hopper::barrier_wait(s_.k_full(load), load / kStages % 2);
      const int first = step * kStepKeys;
      const auto done = [&] {
        if (step < keys.second()) release(s_.k_empty(load));
      };
      if (first >= end) {
        turns_.skip();
        done();
        continue;
      }
      with_columns(end - first, [&](auto columns) {
        float s[columns / 2];
        multiply<columns, L::kQChunk, L::kChunk>(s, queries, s_.keys(load));
        done();
        if (first + columns - 1 > least) hide<columns, false>(s, item.first - first);
        add<columns>(s, top, sum);
      });
    }
    float2* table = s_.table(n);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other_top = __shfl_xor_sync(kFullWarp, top[r], step);
        const float other_sum = __shfl_xor_sync(kFullWarp, sum[r], step);
        merge_sums(top[r], sum[r], other_top, other_sum);
      }
      const int row = first_row + row_ + 8 * r;
      if (pair_ == 0) table[row].x = row < rows ? -top[r] - __log2f(sum[r]) : -INFINITY;
    }
  }

  /// Pass 1: this thread's rows see the columns (keys of the step) up to cell_ + ahead. Pass 2: this thread's keys are
  /// seen by the columns (queries of the pair) from row_ * group + ahead on. What is not seen becomes -inf.
  template <int kColumns, bool kKeysAreRows>
  __device__ __forceinline__ void hide(float (&s)[kColumns / 2], int ahead) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int bound = (kKeysAreRows ? (row_ + 8 * r) * p_.group : cell_[r]) + ahead - pair_;
#pragma unroll
      for (int i = 0; i < kColumns / 4; ++i) {
        const int column = i / 2 * 8 + i % 2;
        if (kKeysAreRows ? column < bound : column > bound) s[i / 2 * 4 + 2 * r + i % 2] = -INFINITY;
      }
    }
  }

  /// Adds a step's columns to the row sums. `top` follows the largest logit only where it lags by more than 2^16, so
  /// that most steps rescale nothing.
  template <int kColumns>
  __device__ __forceinline__ void add(const float (&s)[kColumns / 2], float (&top)[2], float (&sum)[2]) const {
    constexpr float kLag = 16;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most[2] = {s[2 * r], s[2 * r + 1]};
#pragma unroll
      for (int j = 1; j < kColumns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) most[e] = fmaxf(most[e], s[4 * j + 2 * r + e]);
      const float now = fmaxf(most[0], most[1]) * p_.scale;
      if (now > top[r] + kLag) {
        sum[r] *= exp2_fast(top[r] - now);
        top[r] = now;
      }
      float parts[2] = {0, 0};
#pragma unroll
      for (int j = 0; j < kColumns / 8; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) parts[e] += exp2_fast(fmaf(s[4 * j + 2 * r + e], p_.scale, -top[r]));
      sum[r] += parts[0] + parts[1];
    }
  }

  /// Pass 2: 64 keys of each step against the pair's queries.
  __device__ __forceinline__ void best_keys(const Item& item, const KeyLoads& keys, unsigned n, unsigned loads) const {
    const int first_row = warpgroup_ / 2 * kPairRows;
    const int rows = min(rows_of(item) - first_row, kPairRows);
    const int end = rows > 0 ? cells_below(item, first_row + kPairRows) : 0;
    const int ahead = warpgroup_ % 2 * kWarpgroupRows;
    const std::uint32_t queries = s_.queries(n) + first_row * 128;
    const auto* table = reinterpret_cast<const float4*>(s_.table(n) + first_row + pair_);
    for (int i = keys.second(); i < keys.count(); ++i) {
      const unsigned load = loads + i;
      hopper::barrier_wait(s_.k_full(load), load / kStages % 2);
      const int first = keys.step(i) * kStepKeys + ahead;
      const auto done = [&] {
        release(s_.k_empty(load));
        if (i + 1 == keys.count()) release(s_.q_empty(n));
      };
      if (first >= end) {
        turns_.skip();
        done();
        continue;
      }
      with_columns(rows, [&](auto columns) {
        float s[columns / 2];
        multiply<columns, L::kChunk, L::kQChunk>(s, s_.keys(load) + ahead * 128, queries);
        done();
        if (first + kWarpgroupRows - 1 > item.first + first_row / p_.group)
          hide<columns, true>(s, (first - item.first) * p_.group - first_row);
        float best[2][2];  // [kind][key]
        find_best<columns>(s, table, best);
        write_best(item, first, best);
      });
    }
  }

  /// The largest logits less log-sum-exp of a thread's two keys, over the frame and over all that a row sees.
  template <int kColumns>
  __device__ __forceinline__ void find_best(const float (&s)[kColumns / 2], const float4* table,
                                            float (&best)[2][2]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) best[i / 2][i % 2] = -INFINITY;
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      const float4 less = table[4 * j];  // frame and whole of a column, then of the next one
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float x = s[4 * j + 2 * r];
        const float y = s[4 * j + 2 * r + 1];
        best[0][r] = fmaxf(best[0][r], fmaxf(fmaf(x, p_.scale, less.x), fmaf(y, p_.scale, less.z)));
        best[1][r] = fmaxf(best[1][r], fmaxf(fmaf(x, p_.scale, less.y), fmaf(y, p_.scale, less.w)));
      }
    }
  }

  /// A lane of a quad has one key and kind. exp() is monotonic. A score is not negative, so its bits order like
  /// integers, and items meet in atomicMax, which gives the same bits in any order.
  __device__ __forceinline__ void write_best(const Item& item, int first, float (&best)[2][2]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int step = 1; step < 4; step *= 2)
        best[i / 2][i % 2] = fmaxf(best[i / 2][i % 2], __shfl_xor_sync(kFullWarp, best[i / 2][i % 2], step));
    const bool whole = pair_ / 2 % 2 != 0;
    const bool upper = pair_ >= 4;
    const float logit = whole ? (upper ? best[1][1] : best[1][0]) : (upper ? best[0][1] : best[0][0]);
    const int key = first + row_ + (upper ? 8 : 0);
    const float score = exp2_fast(fminf(logit, kMostSelf));
    float* out = whole ? p_.self : p_.local;
    if (score > 0 && key < item.end && out != nullptr)
      atomicMax(reinterpret_cast<int*>(out + item.head * p_.rows + item.start + key), __float_as_int(score));
  }

  const Params& p_;
  const Shared<D>& s_;
  int warpgroup_;
  hopper::Turns<kConsumers / 128> turns_;
  int row_;      ///< this thread's rows of a product: row_ and row_ + 8
  int pair_;     ///< and columns 8 j + pair_, + 1
  int cell_[2];  ///< of the item, of this thread's query rows in pass 1
};

/// 2 * 2 * head_dim FLOPs a (query, key) pair and query head; reads q once, and keys of a frame once (twice past 256
/// of them) for every 256 / group cells, from the second-level cache: with half as many queries an item that would be
/// the limit. Shared memory at head_dim 128: two slots of 64 KiB of queries, two stages of 32 KiB of keys.
template <int D>
__global__ void __launch_bounds__(kThreads, 1) score_frames_sm90(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char raw[];
  const Shared<D> shared(raw);
  if (threadIdx.x == 0) shared.init_barriers();
  __syncthreads();
  // 512 x 104 + 128 x 64 registers, of 96 x 640 at the start.
  if (threadIdx.x < kConsumers) {
    hopper::take_registers<104>();
    Scorer<D>(params, shared).run();
  } else {
    hopper::give_registers<64>();
    if (threadIdx.x == kConsumers) Producer<D>(params, shared).run();
  }
}

template <int D>
void launch(const Context& context, const Params& params) {
  constexpr std::size_t kBytes = Layout<D>::kTaken;
  static const bool allowed = (allow_shared(score_frames_sm90<D>, kBytes), true);
  static_cast<void>(allowed);
  const int blocks = std::min(context.cuda->sms, params.items);
  score_frames_sm90<D><<<blocks, kThreads, kBytes, stream_of(context)>>>(params);
  check_launch("scoring frames");
}

}  // namespace frames

bool score_frame_sm90_takes(const Context& context, const FrameScoreParams& p) {
  const HeadShape& shape = p.shape;
  if (context.cuda->capability != 90 || context.cuda->smem_bytes < frames::Layout<128>::kTaken) return false;
  if (shape.head_dim % 8 != 0 || shape.head_dim > 128 || shape.group() > frames::kPairRows) return false;
  if (p.q.stride % 8 != 0 || !is_box_aligned(p.q.data) || p.kv.dtype != DType::kBF16) return false;
  return is_one_tensor(p.kv, shape.head_dim);
}

void score_frame_sm90(const Context& context, const FrameScoreParams& p, const FrameRows& rows) {
  const HeadShape& shape = p.shape;
  const KvHeadView& head = p.kv.heads[0];
  const std::int64_t cells = frames::kTileRows / shape.group();
  const frames::Params to{
      .q = make_tensor_map(p.q.data, DType::kBF16, shape.head_dim, {shape.heads, shape.head_dim},
                           {p.q.rows, p.q.stride}, shape.group(), cells),
      .k = make_tensor_map(head.k, DType::kBF16, shape.head_dim, {head.rows, head.stride},
                           {shape.kv_heads, head_stride(p.kv, &KvHeadView::k)}, frames::kBoxKeys, 1),
      .tiles = rows.cell_tiles.as<CellTile>(),
      .next = rows.next_item.as<unsigned>(),
      .items = static_cast<int>(rows.cell_tile_count * shape.kv_heads),
      .kv_heads = static_cast<int>(shape.kv_heads),
      .group = static_cast<int>(shape.group()),
      .cells = static_cast<int>(cells),
      .scale = p.scale * kLog2E,
      .lse = p.self == nullptr ? nullptr : p.lse,
      .local = p.local,
      .self = p.self,
      .rows = p.table->rows};
  if (shape.head_dim <= 64) return frames::launch<64>(context, to);
  frames::launch<128>(context, to);
}

}  // namespace purekv::cuda
