#pragma once

#include <cmath>
#include <type_traits>

#include "kernels/cuda/attention_sm90_shared.cuh"
#include "kernels/cuda/attention_sm90_wgmma.cuh"

/// A consumer warpgroup: 64 packed rows (token-major, group minor) against the stream of steps.
namespace purekv::cuda::sm90 {

constexpr float kNone = -INFINITY;

__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// {low, high} halves.
__device__ __forceinline__ std::uint32_t pack_bf16(float low, float high) {
  std::uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// Over the four threads that share a row.
__device__ __forceinline__ float row_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0U, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0U, x, 2));
}
__device__ __forceinline__ float row_sum(float x) {
  x += __shfl_xor_sync(~0U, x, 1);
  return x + __shfl_xor_sync(~0U, x, 2);
}

/// A thread's two rows: maximum of the raw logits, this thread's share of the sum.
struct RowState {
  float m[2] = {kNone, kNone};
  float l[2] = {0, 0};
};

template <int D>
class Consumer {
 public:
  using L = Layout<D>;
  __device__ Consumer(const Params& params, const Shared<D>& shared)
      : p_(params), s_(shared), warpgroup_(threadIdx.x / 128 - 1) {
    const int row = threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      token_[r] = (row + 8 * r) / p_.group;
      head_[r] = (row + 8 * r) % p_.group;
    }
  }

  /// Steps of all tiles are one stream: Q K^T of the next step (of the next tile, too) is issued before P V of this
  /// one, so that a tile's first softmax and its last product overlap and short key lists keep the tensor cores busy.
  /// The two warpgroups take turns in issuing: one's softmax runs beside the other's products.
  __device__ void run() {
    float s[64];
    float o[D / 2];
    std::uint32_t p[8][4];
    hopper::barrier_wait(s_.k_full(0), 0);
    if (s_.step(0)->flags & kEnd) return;  // a block may get nothing to do
    hopper::barrier_wait(s_.q_full(0), 0);
    if (warpgroup_ == 1) hopper::named_arrive(1, 256);
    TileHeader tile = *s_.tile(0);
    const StepHeader* header = s_.step(0);
    hopper::wgmma_fence();
    multiply_keys<128>(s, s_.q(0, warpgroup_), s_.k(0));
    hopper::wgmma_wait<0>();
    hopper::pin(s);
    RowState state;
    float factor[2];
    int flags = header->flags;
    int columns = header->columns;
    release(s_.k_empty(0));
    mask(s, header, tile);
    raise_maxima(s, columns, true, state, factor);
    to_probabilities(s, columns, state, p);
    unsigned tiles = 0;
    int q_slot = 0;
    unsigned last = 0;
    for (unsigned step = 1;; ++step) {
      const Turn<L::kStages> turn(step);
      const Turn<L::kStages> before(step - 1);
      hopper::barrier_wait(s_.k_full(turn.stage), turn.parity);
      header = s_.step(step);
      const int next_flags = header->flags;
      if (next_flags & kEnd) break;
      TileHeader next_tile = tile;
      const int this_slot = q_slot;
      if (flags & kLastStep) {
        ++tiles;
        const Turn<L::kQSlots> q_turn(tiles);
        q_slot = q_turn.stage;
        hopper::barrier_wait(s_.q_full(q_slot), q_turn.parity);
        next_tile = *s_.tile(q_slot);
      }
      hopper::named_sync(1 + warpgroup_, 256);
      hopper::wgmma_fence();
      with_columns(header->columns, [&](auto new_columns) {
        with_columns(columns, [&](auto these_columns) {
          multiply_keys<new_columns>(s, s_.q(q_slot, warpgroup_), s_.k(turn.stage));
          hopper::barrier_wait(s_.v_full(before.stage), before.parity);
          multiply_values<these_columns>(o, p, s_.v(before.stage), flags);
        });
      });
      hopper::named_arrive(2 - warpgroup_, 256);
      hopper::wgmma_wait<1>();
      hopper::pin(s);
      release(s_.k_empty(turn.stage));
      mask(s, header, next_tile);
      const RowState finished = state;
      const int next_columns = header->columns;
      raise_maxima(s, next_columns, (next_flags & kFirstStep) != 0, state, factor);
      // P V has had the time of the maxima to finish; waiting here lets the exponentials hide the rest of the work.
      hopper::wgmma_wait<0>();
      hopper::pin(o);
      pin_probabilities(p);
      release(s_.v_empty(before.stage));
      if (flags & kLastStep) {
        store(o, finished, tile, this_slot);
        release(s_.q_empty(this_slot));
      } else {
        rescale(o, factor);
      }
      to_probabilities(s, next_columns, state, p);
      tile = next_tile;
      flags = next_flags;
      columns = next_columns;
      last = step;
    }
    const Turn<L::kStages> turn(last);
    hopper::barrier_wait(s_.v_full(turn.stage), turn.parity);
    hopper::wgmma_fence();
    with_columns(columns, [&](auto these_columns) { multiply_values<these_columns>(o, p, s_.v(turn.stage), flags); });
    hopper::wgmma_wait<0>();
    hopper::pin(o);
    store(o, state, tile, q_slot);
  }

 private:
  /// s = Q K^T. The first 16 values go through all 128 columns whatever is asked: every accumulator must come from a
  /// wgmma, or the compiler puts a wait after each of them. The rest covers kColumns.
  template <int kColumns>
  __device__ __forceinline__ static void multiply_keys(float (&s)[64], std::uint32_t q, std::uint32_t k) {
    const std::uint64_t a = hopper::swizzled_operand(q, 16);
    const std::uint64_t b = hopper::swizzled_operand(k, 16);
    hopper::multiply_shared<128>(s, a, b, 0);
#pragma unroll
    for (int n = 1; n < D / 16; ++n) {
      // 16 values are 32 bytes, two address units; 64 values end a chunk.
      const int in_chunk = n % 4 * 2;
      hopper::multiply_shared<kColumns>(s, a + (n / 4 * L::kQChunk >> 4) + in_chunk,
                                        b + (n / 4 * L::kChunk >> 4) + in_chunk, 1);
    }
    hopper::wgmma_commit();
  }

  /// o += P V over kKeys keys; the first step of a tile overwrites o.
  template <int kKeys>
  __device__ __forceinline__ static void multiply_values(float (&o)[D / 2], const std::uint32_t (&p)[8][4],
                                                         std::uint32_t v, int flags) {
    const std::uint64_t b = hopper::swizzled_operand(v, L::kChunk);
    hopper::multiply_registers(o, p[0], b, (flags & kFirstStep) == 0);
#pragma unroll
    for (int n = 1; n < kKeys / 16; ++n) hopper::multiply_registers(o, p[n], b + n * (2048 >> 4), 1);
    hopper::wgmma_commit();
  }

  /// Calls body<columns>() with a constant: products must lie in one stretch of code to run asynchronously.
  template <class Body>
  __device__ __forceinline__ static void with_columns(int columns, const Body& body) {
    if (columns == 128)
      body(std::integral_constant<int, 128>());
    else if (columns == 96)
      body(std::integral_constant<int, 96>());
    else if (columns == 64)
      body(std::integral_constant<int, 64>());
    else
      body(std::integral_constant<int, 32>());
  }

  __device__ __forceinline__ static void pin_probabilities(std::uint32_t (&p)[8][4]) {
#pragma unroll
    for (int n = 0; n < 8; ++n) hopper::pin(p[n]);
  }

  __device__ __forceinline__ static void release(std::uint32_t barrier) {
    if (threadIdx.x % 32 == 0) hopper::barrier_arrive(barrier);
  }

  /// How many of this thread's columns (8 j + 2 q + {0, 1}) lie below column x.
  __device__ __forceinline__ static int columns_below(int x) {
    return x / 8 * 2 + min(max(x % 8 - static_cast<int>(threadIdx.x % 4) * 2, 0), 2);
  }
  /// Bits [begin, end).
  __device__ __forceinline__ static unsigned bits(int begin, int end) {
    unsigned mask;
    asm("bmsk.clamp.b32 %0, %1, %2;" : "=r"(mask) : "r"(begin), "r"(max(end - begin, 0)));
    return mask;
  }

  /// Logits that a row does not see become -inf. A thread's columns of a row are the bits of a word, which every mask
  /// of the step narrows; most steps have none.
  __device__ __forceinline__ void mask(float (&s)[64], const StepHeader* header, const TileHeader& tile) const {
    const int masks = header->masks;
    if (masks == 0) return;
    unsigned seen[2] = {~0U, ~0U};
    for (int n = 0; n < masks; ++n) {
      const StepMask mask = header->mask[n];
      const int begin = mask.groups & 0xFF;
      const int end = mask.groups >> 8 & 0xFF;
      const int limit = mask.groups >> 16;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = tile.first + warpgroup_ * p_.tokens + token_[r];
        const int low = min(max(row + mask.low, 0), limit);
        const int high = min(max(row + mask.high + 1, 0), limit);
        seen[r] &= ~bits(2 * begin, 2 * end) | bits(columns_below(low), columns_below(high));
      }
    }
#pragma unroll
    for (int i = 0; i < 64; ++i)
      if ((seen[i / 2 % 2] & 1U << (i / 4 * 2 + i % 2)) == 0) s[i] = kNone;
  }

  /// Calls body<block>() for each 32 columns that the step has; whole steps in one stretch of code.
  template <class Body>
  __device__ __forceinline__ static void over_blocks(int columns, const Body& body) {
    if (columns == 128) {
#pragma unroll
      for (int block = 0; block < 4; ++block) body(block);
    } else {
#pragma unroll
      for (int block = 0; block < 3; ++block)
        if (32 * block < columns) body(block);
    }
  }

  /// Online softmax, first half: the maximum of each row. It moves only where it rose by more than 2^8: until then
  /// probabilities of up to 256 cost no accuracy and o needs no rescaling.
  __device__ __forceinline__ void raise_maxima(const float (&s)[64], int columns, bool first, RowState& state,
                                               float (&factor)[2]) const {
    constexpr float kLazy = 8;
    float top[2][2] = {{kNone, kNone}, {kNone, kNone}};  // two chains a row
    over_blocks(columns, [&](int block) {
#pragma unroll
      for (int i = 16 * block; i < 16 * block + 16; ++i) top[i / 2 % 2][i % 2] = fmaxf(top[i / 2 % 2][i % 2], s[i]);
    });
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float before = first ? kNone : state.m[r];
      const float now = fmaxf(before, row_max(fmaxf(top[r][0], top[r][1])));
      const float growth = (now - before) * p_.scale_log2;  // NaN where the row has seen nothing yet
      const bool keeps = growth <= kLazy;
      state.m[r] = keeps ? before : now;
      factor[r] = keeps || now == kNone ? 1.0F : exp2_approximate(-growth);
      state.l[r] = first ? 0.0F : state.l[r] * factor[r];
    }
  }

  /// Second half: P = exp(logit - maximum), unnormalised, in operand layout (the same thread holds both layouts).
  /// Sums lag a block behind the exponentials, whose latency a warp would otherwise wait for.
  __device__ __forceinline__ void to_probabilities(float (&s)[64], int columns, RowState& state,
                                                   std::uint32_t (&p)[8][4]) const {
    float offset[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) offset[r] = state.m[r] == kNone ? 0.0F : state.m[r] * p_.scale_log2;
    const auto exponentials = [&](int block) {
#pragma unroll
      for (int i = 16 * block; i < 16 * block + 16; ++i)
        s[i] = exp2_approximate(fmaf(s[i], p_.scale_log2, -offset[i / 2 % 2]));
    };
    const auto pack_and_add = [&](int block) {
#pragma unroll
      for (int n = 2 * block; n < 2 * block + 2; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) p[n][i] = pack_bf16(s[8 * n + 2 * i], s[8 * n + 2 * i + 1]);
#pragma unroll
        for (int r = 0; r < 2; ++r)
          state.l[r] += s[8 * n + 2 * r] + s[8 * n + 2 * r + 1] + (s[8 * n + 4 + 2 * r] + s[8 * n + 5 + 2 * r]);
      }
    };
    if (columns == 128) {
      exponentials(0);
#pragma unroll
      for (int block = 1; block < 4; ++block) {
        exponentials(block);
        pack_and_add(block - 1);
      }
      pack_and_add(3);
      return;
    }
#pragma unroll
    for (int block = 0; block < 3; ++block)
      if (32 * block < columns) {
        exponentials(block);
        pack_and_add(block);
      }
  }

  __device__ __forceinline__ static void rescale(float (&o)[D / 2], const float (&factor)[2]) {
    if (!__any_sync(~0U, factor[0] != 1.0F || factor[1] != 1.0F)) return;
#pragma unroll
    for (int i = 0; i < D / 2; ++i) o[i] *= factor[i / 2 % 2];
  }

  /// Divides and writes the tile's rows, or the partial result as it is. Every warp turns its 16 rows to whole rows of
  /// the output through its own rows of Q's slot, which nobody needs any more.
  __device__ __forceinline__ void store(float (&o)[D / 2], const RowState& state, const TileHeader& tile,
                                        int slot) const {
    float sum[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) sum[r] = row_sum(state.l[r]);
    if (tile.slot >= 0) {
      for (int r = 0; r < 2; ++r) store_partial(o, r, state.m[r], sum[r], tile);
      return;
    }
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      inverse[r] = sum[r] == 0 ? 0.0F : __fdividef(1.0F, sum[r]);  // a row that sees nothing is 0; a NaN passes
      const int row = tile.first + warpgroup_ * p_.tokens + token_[r];
      if (p_.lse != nullptr && threadIdx.x % 4 == 0 && token_[r] < p_.tokens && row < tile.end)
        p_.lse[(tile.head * p_.group + head_[r]) * p_.lse_stride + row] =
            sum[r] == 0 ? kNone : state.m[r] * p_.scale + __logf(sum[r]);
    }
    const int lane = threadIdx.x % 32;
    const std::uint32_t rows = s_.q(slot, warpgroup_) + threadIdx.x / 32 % 4 * 16 * 128;
    // Matrices of 8 x 8: two column groups x two row halves at once, 16-byte pieces in Q's own swizzle.
    const std::uint32_t at = rows + (lane % 16) * 128;
    const int swizzle = lane / 16 ^ lane % 8;
#pragma unroll
    for (int j = 0; j < D / 8; j += 2) {
      std::uint32_t words[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int from = 4 * (j + i / 2) + 2 * (i % 2);
        words[i] = pack_bf16(o[from] * inverse[i % 2], o[from + 1] * inverse[i % 2]);
      }
      hopper::store_matrices(at + j / 8 * L::kQChunk + ((j % 8 ^ swizzle) << 4), words);
    }
    __syncwarp();
    constexpr int kPieces = 8 * L::kChunks;  // of a row, a lane each
    const int piece = lane % kPieces;
    const bool is_column = 8 * piece < p_.head_dim;
#pragma unroll
    for (int i = 0; i < 16; i += 32 / kPieces) {
      const int local = i + lane / kPieces;
      const int packed = threadIdx.x / 32 % 4 * 16 + local;
      const int token = packed * p_.group_inverse >> 16;
      const int row = tile.first + warpgroup_ * p_.tokens + token;
      const int head = tile.head * p_.group + packed - token * p_.group;
      const uint4 words = hopper::load_shared(rows + piece / 8 * L::kQChunk + local * 128 +
                                              ((piece % 8 ^ local % 8) << 4));
      if (is_column && token < p_.tokens && row < tile.end)
        *reinterpret_cast<uint4*>(p_.out + row * p_.out_stride + head * p_.head_dim + 8 * piece) = words;
    }
    // The copy engine writes the slot next.
    hopper::proxy_fence();
    __syncwarp();
  }

  __device__ __forceinline__ void store_partial(const float (&o)[D / 2], int r, float m, float sum,
                                                const TileHeader& tile) const {
    const int quad = threadIdx.x % 4;
    const int packed = warpgroup_ * kWarpgroupRows + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4 + 8 * r;
    const std::int64_t at = (static_cast<std::int64_t>(tile.slot) * p_.kv_heads + tile.head) * kSlots + packed;
    float* to = p_.partial + at * D + 2 * quad;
#pragma unroll
    for (int j = 0; j < D / 8; ++j) *reinterpret_cast<float2*>(to + 8 * j) = {o[4 * j + 2 * r], o[4 * j + 2 * r + 1]};
    if (quad == 0) p_.partial_sums[at] = {m, sum};
  }

  const Params& p_;
  const Shared<D>& s_;
  int warpgroup_;
  int token_[2], head_[2];
};

}  // namespace purekv::cuda::sm90
