#include "kernels/cuda/score_frame_small_sm90.cuh"

#include <algorithm>

#include "kernels/cuda/score_frame_columns.cuh"
#include "kernels/cuda/score_tiles.cuh"

namespace purekv::cuda::frames {
namespace small {

/// A consumer warpgroup: 64 packed query rows of a frame and KV head after the other. While the logits are in registers
/// they give the rows' sums and, with the sums, each key's maxima over the rows. Only those of the keys from the 128th
/// on are made twice, for the sums and for the maxima.
template <int D>
class Scorer {
 public:
  using L = Layout<D>;
  __device__ Scorer(const Params& params, const Shared<D>& shared)
      : p_(params),
        s_(shared),
        team_(static_cast<int>(threadIdx.x) / 128),
        lane_(static_cast<int>(threadIdx.x) % 32),
        pair_(2 * (lane_ % 4)) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      row_[r] = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane_ / 4 + 8 * r;
      cell_[r] = row_[r] / p_.group;
    }
  }

  __device__ void run() {
    clear_best();
    for (unsigned n = static_cast<unsigned>(team_);; n += kTeams) {
      hopper::barrier_wait(s_.q_full(n), s_.q_parity(n));
      const Tile tile = read_tile(n);
      if (tile.end == 0) return;
      score(tile, n);
      if (tile.keys > 0) hand_over(tile);
    }
  }

 private:
  /// The lane that gives the slot back reads for its warp.
  __device__ __forceinline__ Tile read_tile(unsigned n) const {
    Tile tile{};
    if (lane_ == 0) tile = *s_.tile(n);
    return {uniform(tile.start), uniform(tile.first), uniform(tile.end),
            uniform(tile.head),  uniform(tile.load),  uniform(tile.keys)};
  }

  __device__ __forceinline__ void score(const Tile& tile, unsigned n) const {
    float less[kKinds][2];
    read_whole(tile, less[1]);
    const int upper = tile.end - kHalfKeys;
    PairSums sums;
    if (upper > 0) {
      hopper::barrier_wait(s_.k_full(tile.load - 1), s_.k_parity(tile.load - 1));
      with_columns(upper, [&](auto columns) {
        float s[columns / 2];
        multiply_half<columns>(s, tile, n, kHalfKeys);
        sums.add<columns>(s, p_.scale);
      });
    }
    hopper::barrier_wait(s_.k_full(tile.load), s_.k_parity(tile.load));
    with_columns(tile.end, [&](auto columns) {
      float s[columns / 2];
      multiply_half<columns>(s, tile, n, 0);
      if (upper <= 0) release(n);
      sums.add<columns>(s, p_.scale);
      sums.merge_quad();
#pragma unroll
      for (int r = 0; r < 2; ++r) less[0][r] = is_row(tile, r) ? sums.less(r) : -INFINITY;
      find_best<columns>(s, less, 0);
    });
    if (upper > 0)
      with_columns(upper, [&](auto columns) {
        float s[columns / 2];
        multiply_half<columns>(s, tile, n, kHalfKeys);
        release(n);
        find_best<columns>(s, less, kHalfKeys);
      });
  }

  /// The tile's logits over the half of the keys that begins with key `first`; -inf for what a row does not see.
  template <int kColumns>
  __device__ __forceinline__ void multiply_half(float (&s)[kColumns / 2], const Tile& tile, unsigned n,
                                                int first) const {
    const std::uint32_t keys = s_.keys(first == 0 ? tile.load : tile.load - 1);
    multiply<D, kColumns>(s, s_.queries(n), L::kQueryChunk, keys, L::kKeyChunk);
    hide<kColumns>(s, tile.first - first);
  }

  /// Queries and keys of the tile have been read.
  __device__ __forceinline__ void release(unsigned n) const {
    __syncwarp();
    if (lane_ == 0) hopper::barrier_arrive(s_.q_empty(n));
  }

  __device__ __forceinline__ bool is_row(const Tile& tile, int r) const {
    return row_[r] < (tile.end - tile.first) * p_.group;
  }

  /// Base-2 log-sum-exps of all that this thread's rows see, negative; -inf past the tile's end, so that no key's
  /// maximum comes from there.
  __device__ __forceinline__ void read_whole(const Tile& tile, float (&less)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      less[r] = -INFINITY;
      if (!is_row(tile, r) || p_.lse == nullptr) continue;
      const int head = tile.head * p_.group + row_[r] - cell_[r] * p_.group;
      less[r] = -kLog2E * p_.lse[head * p_.rows + tile.start + tile.first + cell_[r]];
    }
  }

  /// -inf for what a row does not see: the tile's first row sees column `least` last.
  template <int kColumns>
  __device__ __forceinline__ void hide(float (&s)[kColumns / 2], int least) const {
    constexpr int kBlock = 32;
#pragma unroll
    for (int first = 0; first < kColumns; first += kBlock) {
      if (first + kBlock - 1 <= least) continue;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int bound = least + cell_[r] - pair_;
#pragma unroll
        for (int i = first / 4; i < (first + kBlock) / 4; ++i)
          if (i / 2 * 8 + i % 2 > bound) s[i / 2 * 4 + 2 * r + i % 2] = -INFINITY;
      }
    }
  }

  /// A pair of values of which a lane keeps the second if `second`.
  __device__ __forceinline__ static float meet(bool second, float x, float y, int step) {
    return meet_lane(second ? y : x, second ? x : y, step);
  }

  /// Each key's largest logit less log-sum-exp, of both kinds, over the warp's 16 rows. The eight lanes that hold a
  /// key's rows meet: each step halves what a lane holds, first to one kind, then to one of two neighbours, then to one
  /// of two eights of keys. exp() is monotonic, so one exponential a key and kind follows.
  template <int kColumns>
  __device__ __forceinline__ void find_best(const float (&s)[kColumns / 2], const float (&less)[kKinds][2],
                                            int first) const {
    const int kind = lane_ / 4 % 2;
    const bool odd = lane_ / 8 % 2 != 0, upper = lane_ / 16 != 0;
    float keep[2], send[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      keep[r] = kind == 0 ? less[0][r] : less[1][r];
      send[r] = kind == 0 ? less[1][r] : less[0][r];
    }
    int* best = s_.best(team_) + kind * kKindStride + first + (upper ? 8 : 0) + pair_ + (odd ? 1 : 0);
#pragma unroll
    for (int m = 0; m < kColumns / 16; ++m) {
      float eight[2];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float key[2];
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const float x = s[8 * m + 4 * j + e];
          const float y = s[8 * m + 4 * j + 2 + e];
          key[e] = meet_lane(fmaxf(fmaf(x, p_.scale, keep[0]), fmaf(y, p_.scale, keep[1])),
                             fmaxf(fmaf(x, p_.scale, send[0]), fmaf(y, p_.scale, send[1])), 4);
        }
        eight[j] = meet(odd, key[0], key[1], 8);
      }
      const float logit = meet(upper, eight[0], eight[1], 16);
      // A warp without rows of its own may hold NaN: they are no score.
      atomicMax(best + 16 * m, __float_as_int(exp2_fast(fminf(fmaxf(logit, -INFINITY), kMostSelf))));
    }
  }

  /// A score is not negative, so its bits order like integers; a maximum has the same bits in any order.
  __device__ __forceinline__ void hand_over(const Tile& tile) const {
    hopper::named_sync(1 + team_, 128);
    for (int key = static_cast<int>(threadIdx.x) % 128; key < tile.keys; key += 128) {
#pragma unroll
      for (int kind = 0; kind < kKinds; ++kind) {
        int& bits = s_.best(team_)[kind * kKindStride + key];
        float* out = kind == 0 ? p_.local : p_.self;
        if (bits > 0 && out != nullptr)
          atomicMax(reinterpret_cast<int*>(out + tile.head * p_.rows + tile.start + key), bits);
        bits = 0;
      }
    }
    hopper::named_sync(1 + team_, 128);
  }

  __device__ __forceinline__ void clear_best() const {
    int* best = s_.best(team_);
    for (int i = static_cast<int>(threadIdx.x) % 128; i < kKinds * kKindStride; i += 128) best[i] = 0;
    hopper::named_sync(1 + team_, 128);
  }

  const Params& p_;
  const Shared<D>& s_;
  int team_;
  int lane_;
  int pair_;  ///< this thread's columns of a product: 8 j + pair_, + 1
  int row_[2];
  int cell_[2];  ///< of the tile
};

/// 2 * head_dim FLOPs a (query, key) pair and query head, twice that for keys from the 128th on; reads q once, and keys
/// of a frame once an item. A block has four warpgroups, each with tiles of its own, so that products of one run beside
/// exponentials and maxima of others. Shared memory at head_dim 128: three slots of 32 KiB for halves of an item's
/// keys, seven of 16 KiB for tiles of queries.
///
/// Measured on an H200, 28/4 heads, head_dim 128, 32k rows: 152 us at 256 rows a frame, 142 at 192, 118 at 169, 122 at
/// 140, 95 at 64 (two passes, score_frame_sm90.cu: 192, 163, 163, 145 and 115); products and loads alone take 71 us at
/// 256. Two warpgroups with all 256 columns in registers took 182 us, queries sent for to the second-level cache ahead
/// of their load 5 us more, four tiles of queries 11 us more than five.
template <int D>
__global__ void __launch_bounds__(kThreads, 1) score_small_frames_sm90(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) unsigned char raw[];
  const int thread = static_cast<int>(threadIdx.x);
  const Shared<D> shared(raw);
  if (thread == 0) shared.init_barriers();
  __syncthreads();
  // 512 x 104 + 128 x 64 registers, of 640 x 96 at the start.
  if (thread < kTeams * 128) {
    hopper::take_registers<104>();
    Scorer<D>(params, shared).run();
  } else {
    hopper::give_registers<64>();
    if (thread == kTeams * 128) Producer<D>(params, shared).run();
  }
}

template <int D>
void launch(const Context& context, const Params& params) {
  constexpr std::size_t kBytes = Layout<D>::kBytes + 1024;  // the segment may begin 16-byte aligned
  static_assert(kBytes <= kMostShared);
  static const bool allowed = (allow_shared(score_small_frames_sm90<D>, kBytes), true);
  static_cast<void>(allowed);
  const int blocks = std::min(context.cuda->sms, params.items);
  score_small_frames_sm90<D><<<blocks, kThreads, kBytes, stream_of(context)>>>(params);
  check_launch("scoring frames");
}

}  // namespace small

void score_small_frames(const Context& context, const Params& params, std::int64_t head_dim) {
  if (head_dim <= 64) return small::launch<64>(context, params);
  small::launch<128>(context, params);
}

}  // namespace purekv::cuda::frames
