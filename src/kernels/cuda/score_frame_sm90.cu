#include "kernels/cuda/score_frame_sm90.h"

#include <algorithm>

#include "base/fail.h"
#include "kernels/cuda/score_frame_columns.cuh"
#include "kernels/cuda/score_frame_sm90.cuh"
#include "kernels/cuda/score_tiles.cuh"
#include "kernels/cuda/tensor_map.h"

namespace purekv::cuda {
namespace frames {

/// A consumer warpgroup of an item: 128 packed query rows of one frame and KV head, twice against the frame's keys.
/// Pass 1 has queries as the product's rows, 64 a warpgroup, so that a row's log-sum-exp is a sum in registers. Pass 2
/// has keys as its rows, 64 of each step a warpgroup, so that a key's maximum over queries is one.
template <int D>
class Scorer {
 public:
  using L = Layout<D>;
  __device__ Scorer(const Params& params, const Shared<D>& shared, int team)
      : p_(params),
        s_(shared),
        team_(team),
        warpgroup_(static_cast<int>(threadIdx.x) / 128 % 2),
        row_(static_cast<int>(threadIdx.x) % 128 / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4),
        pair_(2 * (static_cast<int>(threadIdx.x) % 4)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) cell_[r] = (warpgroup_ * kWarpgroupRows + row_ + 8 * r) / p_.group;
  }

  __device__ void run() {
    unsigned loads = 0;
    for (unsigned n = 0;; ++n) {
      hopper::barrier_wait(s_.q_full(), n % 2);
      const Item item = *s_.item();
      if (item.end == 0) return;
      const KeyLoads keys(item);
      float2* table = s_.table(n);
      const float whole = whole_lse(item);
      sum_rows(item, keys, loads, table);
      if (warpgroup_ == 0) table[threadIdx.x % 128].y = -whole;
      hopper::named_sync(1 + team_, kConsumers);
      best_keys(item, keys, loads, reinterpret_cast<const float4*>(table) + pair_ / 2);
      loads += keys.count();
    }
  }

 private:
  __device__ static int rows_of(const Params& p, const Item& item) { return (item.end - item.first) * p.group; }

  /// Of this thread's row of the item: the base-2 log-sum-exp of all that it sees; +inf past the item's end, so that no
  /// key's maximum comes from there.
  __device__ float whole_lse(const Item& item) const {
    const int row = static_cast<int>(threadIdx.x) % 128;
    if (warpgroup_ != 0 || row >= rows_of(p_, item) || p_.lse == nullptr) return INFINITY;
    const int cell = row / p_.group;
    return p_.lse[(item.head * p_.group + row - cell * p_.group) * p_.rows + item.start + item.first + cell] * kLog2E;
  }

  __device__ __forceinline__ static void release(std::uint32_t barrier) {
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(barrier);
  }

  /// Pass 1. A thread's sums are over the columns that it sees; its quad meets at the end.
  __device__ __forceinline__ void sum_rows(const Item& item, const KeyLoads& keys, unsigned loads,
                                           float2* table) const {
    const int rows = rows_of(p_, item);
    const bool idle = warpgroup_ * kWarpgroupRows >= rows;
    const int least = item.first + warpgroup_ * kWarpgroupRows / p_.group;  // what the first row sees, at least
    PairSums sums;
    for (int n = 0; n < keys.steps; ++n) {
      hopper::barrier_wait(s_.k_full(loads + n), (loads + n) / kStages % 2);
      const int first = n * kStepKeys;
      if (!idle)
        with_columns(item.end - first, [&](auto columns) {
          float s[columns / 2];
          multiply<D, columns>(s, s_.queries() + warpgroup_ * kWarpgroupRows * 128, L::kChunk, s_.keys(loads + n),
                               L::kChunk);
          if (n < keys.second()) release(s_.k_empty(loads + n));
          if (first + columns - 1 > least) hide<columns, false>(s, item.first - first);
          sums.add<columns>(s, p_.scale);
        });
      else if (n < keys.second())
        release(s_.k_empty(loads + n));
    }
    sums.merge_quad();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = warpgroup_ * kWarpgroupRows + row_ + 8 * r;
      if (pair_ == 0) table[row].x = row < rows ? sums.less(r) : -INFINITY;
    }
  }

  /// Pass 1: column c is key c of the step, which cell_ + ahead sees up to itself. Pass 2: column c is a query row, and
  /// this thread's keys begin at query row (row_ + ahead) * group. What is not seen becomes -inf.
  template <int kColumns, bool kKeysAreRows>
  __device__ __forceinline__ void hide(float (&s)[kColumns / 2], int ahead) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int bound = (kKeysAreRows ? (row_ + 8 * r + ahead) * p_.group : cell_[r] + ahead) - pair_;
#pragma unroll
      for (int i = 0; i < kColumns / 4; ++i) {
        const int column = i / 2 * 8 + i % 2;
        if (kKeysAreRows ? column < bound : column > bound) s[i / 2 * 4 + 2 * r + i % 2] = -INFINITY;
      }
    }
  }

  /// Pass 2. Two lanes of a quad each take one of its keys' maxima: no key is left for a later step.
  __device__ __forceinline__ void best_keys(const Item& item, const KeyLoads& keys, unsigned loads,
                                            const float4* table) const {
    for (int n = keys.second(); n < keys.count(); ++n) {
      hopper::barrier_wait(s_.k_full(loads + n), (loads + n) / kStages % 2);
      const int first = keys.step(n) * kStepKeys + warpgroup_ * kWarpgroupRows;
      const bool last = n + 1 == keys.count();
      const auto done = [&] {
        release(s_.k_empty(loads + n));
        if (last) hopper::barrier_arrive(s_.q_empty());
      };
      if (first >= item.end) {
        done();
        continue;
      }
      with_columns(rows_of(p_, item), [&](auto columns) {
        float s[columns / 2];
        multiply<D, columns>(s, s_.keys(loads + n) + warpgroup_ * kWarpgroupRows * 128, L::kChunk, s_.queries(),
                             L::kChunk);
        done();
        if (first + kWarpgroupRows - 1 > item.first) hide<columns, true>(s, first - item.first);
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

  /// One exponential a key and kind: exp() is monotonic. A score is not negative, so its bits order like integers, and
  /// items meet in atomicMax, which gives the same bits in any order.
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
  int team_;
  int warpgroup_;
  int row_;      ///< this thread's rows of a product: row_ and row_ + 8
  int pair_;     ///< and columns 8 j + pair_, + 1
  int cell_[2];  ///< of the item, of this thread's query rows in pass 1
};

/// 2 * 2 * head_dim FLOPs a (query, key) pair and query head; reads q once, and keys of a frame once (twice past 256
/// of them) for every 128 / group cells, from the second-level cache. A multiprocessor has a block of two teams, each
/// with items of its own, so that exponentials of one run beside products of the other: two blocks instead would leave
/// too few registers, as their producers would take part in the division. Shared memory: 32 KiB of queries and two
/// stages of 32 KiB of keys a team at head_dim 128.
///
/// Measured on an H200, 28/4 heads, head_dim 128, 32k rows: 504 us at 1,024 rows a frame, 247 at 391, 192 at 256 (see
/// score_frame_small_sm90.cu); mma.sync: 916 us at 1,024. Items of 256 queries loaded an item ahead, four stages of
/// keys, and turns at the tensor cores were no faster.
template <int D>
__global__ void __launch_bounds__(kThreads, 1) score_frames_sm90(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char raw[];
  const int thread = static_cast<int>(threadIdx.x);
  const bool consumes = thread < kTeams * kConsumers;
  const int team = consumes ? thread / kConsumers : (thread - kTeams * kConsumers) / 32;
  const Shared<D> shared(raw, team);
  if (thread % kConsumers == 0 && consumes) shared.init_barriers();
  __syncthreads();
  // 512 x 104 + 128 x 64 registers, of 96 x 640 at the start.
  if (consumes) {
    hopper::take_registers<104>();
    Scorer<D>(params, shared, team).run();
  } else {
    hopper::give_registers<64>();
    if (team < kTeams && thread % 32 == 0) Producer<D>(params, shared, team).run();
  }
}

template <int D>
void launch(const Context& context, const Params& params) {
  constexpr std::size_t kBytes = kTeams * Layout<D>::kBytes + 1024;  // the segment may begin 16-byte aligned
  static_assert(kBytes <= kMostShared);
  static const bool allowed = (allow_shared(score_frames_sm90<D>, kBytes), true);
  static_cast<void>(allowed);
  const int blocks = std::min(context.cuda->sms, static_cast<int>(ceil_div(params.items, kTeams)));
  score_frames_sm90<D><<<blocks, kThreads, kBytes, stream_of(context)>>>(params);
  check_launch("scoring frames");
}

}  // namespace frames

bool score_frame_sm90_takes(const Context& context, const FrameScoreParams& p) {
  const HeadShape& shape = p.shape;
  if (context.cuda->capability != 90 || context.cuda->smem_bytes < frames::kMostShared) return false;
  if (shape.head_dim % 8 != 0 || shape.head_dim > 128 || shape.group() > frames::kTileRows) return false;
  if (p.q.stride % 8 != 0 || !is_box_aligned(p.q.data) || p.kv.dtype != DType::kBF16) return false;
  return is_one_tensor(p.kv, shape.head_dim);
}

void score_frame_sm90(const Context& context, const FrameScoreParams& p, const FrameRows& rows) {
  const HeadShape& shape = p.shape;
  const KvHeadView& head = p.kv.heads[0];
  const bool small = rows.small_item_count > 0;
  const std::int64_t cells = (small ? kSmallTileRows : frames::kTileRows) / shape.group();
  const frames::Params to{
      .q = make_tensor_map(p.q.data, DType::kBF16, shape.head_dim, {shape.heads, shape.head_dim},
                           {p.q.rows, p.q.stride}, shape.group(), cells),
      .k = make_tensor_map(head.k, DType::kBF16, shape.head_dim, {head.rows, head.stride},
                           {shape.kv_heads, head_stride(p.kv, &KvHeadView::k)}, frames::kBoxKeys, 1),
      .tiles = (small ? rows.small_items : rows.cell_tiles).as<CellTile>(),
      .next = rows.next_item.as<unsigned>(),
      .items = static_cast<int>((small ? rows.small_item_count : rows.cell_tile_count) * shape.kv_heads),
      .kv_heads = static_cast<int>(shape.kv_heads),
      .group = static_cast<int>(shape.group()),
      .cells = static_cast<int>(cells),
      .scale = p.scale * kLog2E,
      .lse = p.self == nullptr ? nullptr : p.lse,
      .local = p.local,
      .self = p.self,
      .rows = p.table->rows};
  if (small) return frames::score_small_frames(context, to, shape.head_dim);
  if (shape.head_dim <= 64) return frames::launch<64>(context, to);
  frames::launch<128>(context, to);
}

}  // namespace purekv::cuda
