#pragma once

#include <type_traits>

#include "kernels/cuda/attention_sm90_softmax.cuh"
#include "kernels/cuda/wgmma.cuh"

/// A consumer warpgroup: 64 packed rows (token-major, group minor) against the stream of steps.
namespace purekv::cuda::sm90 {

template <int D>
class Consumer : Softmax<D> {
 public:
  using L = Layout<D>;
  __device__ Consumer(const Params& params, const Shared<D>& shared) : Softmax<D>(params), s_(shared) {}

  /// Steps of all tiles are one stream: Q K^T of the next step (of the next tile, too) is issued before P V of this
  /// one, so that a tile's first softmax and its last product overlap and short key lists keep the tensor cores busy.
  /// The two warpgroups take turns in issuing: one's softmax runs beside the other's products.
  __device__ void run() {
    float s[64];
    float o[D / 2];
    std::uint32_t p[8][4];
    TileHeader tile;
    RowState state;
    int flags = 0;
    int columns = 0;
    if (!begin(s, o, p, state, tile, flags, columns)) return;
    unsigned tiles = 0;
    int q_slot = 0;
    int stored = -1;  // slot of Q whose rows of output are on their way
    unsigned last = 0;
    for (unsigned step = 1;; ++step) {
      const Turn<L::kStages> turn(step);
      const Turn<L::kStages> before(step - 1);
      if (stored >= 0) release_queries(stored);
      stored = -1;
      hopper::barrier_wait(s_.k_full(turn.stage), turn.parity);
      const StepHeader* header = s_.step(step);
      const int next_flags = header->flags;
      if (next_flags & kEnd) break;
      TileHeader next_tile = tile;
      const int this_slot = q_slot;
      if (flags & kLastStep) next_tile = next_queries(++tiles, q_slot);
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
      this->mask(s, header, next_tile);
      const int next_columns = header->columns;
      hopper::barrier_arrive(s_.k_empty(turn.stage));
      const RowState finished = state;
      if (next_flags & kFirstStep) state = {};
      this->shift(s, state);
      hopper::wgmma_wait<0>();
      hopper::pin(o);
      pin_probabilities(p);
      if (threadIdx.x % 32 == 0) hopper::barrier_arrive(s_.v_empty(before.stage));
      if (flags & kLastStep) {
        store(o, finished, tile, this_slot);
        stored = this_slot;
      }
      this->soften(s, next_columns, (next_flags & kFirstStep) != 0, next_tile, state, o, p);
      tile = next_tile;
      flags = next_flags;
      columns = next_columns;
      last = step;
    }
    end(o, p, state, tile, flags, columns, q_slot, last);
  }

 private:
  /// Q K^T and softmax of the first step. False where the block gets nothing to do.
  __device__ __forceinline__ bool begin(float (&s)[64], float (&o)[D / 2], std::uint32_t (&p)[8][4], RowState& state,
                                        TileHeader& tile, int& flags, int& columns) const {
    hopper::barrier_wait(s_.k_full(0), 0);
    if (s_.step(0)->flags & kEnd) return false;
    hopper::barrier_wait(s_.q_full(0), 0);
    if (warpgroup_ == 1) hopper::named_arrive(1, 256);  // the other warpgroup has the first turn
    tile = *s_.tile(0);
    const StepHeader* header = s_.step(0);
    hopper::wgmma_fence();
    multiply_keys<128>(s, s_.q(0, warpgroup_), s_.k(0));
    hopper::wgmma_wait<0>();
    hopper::pin(s);
    flags = header->flags;
    columns = header->columns;
    this->mask(s, header, tile);
    hopper::barrier_arrive(s_.k_empty(0));
    this->shift(s, state);
    this->soften(s, columns, true, tile, state, o, p);
    return true;
  }

  /// P V of the last step of all; no turn to wait for.
  __device__ __forceinline__ void end(float (&o)[D / 2], const std::uint32_t (&p)[8][4], const RowState& state,
                                      const TileHeader& tile, int flags, int columns, int slot, unsigned step) const {
    const Turn<L::kStages> turn(step);
    hopper::barrier_wait(s_.v_full(turn.stage), turn.parity);
    hopper::wgmma_fence();
    with_columns(columns, [&](auto these_columns) { multiply_values<these_columns>(o, p, s_.v(turn.stage), flags); });
    hopper::wgmma_wait<0>();
    hopper::pin(o);
    store(o, state, tile, slot);
    hopper::store_wait_read();  // shared memory must outlive the copies
  }

  /// Waits for the queries of tile n and says in which slot they are.
  __device__ __forceinline__ TileHeader next_queries(unsigned n, int& slot) const {
    const Turn<L::kQSlots> turn(n);
    slot = turn.stage;
    hopper::barrier_wait(s_.q_full(slot), turn.parity);
    return *s_.tile(slot);
  }

  /// s = Q K^T. The first 16 values go through all 128 columns whatever is asked: every accumulator must come from a
  /// wgmma, or the compiler puts a wait after each of them. The rest covers kColumns, without a fence of ours where the
  /// shape changes: ptxas puts in its own (C7519), and with ours it serialises the products (C7511).
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

  /// Divides the tile's rows and sends them to the output, or writes the partial result as it is. Rows go through the
  /// warpgroup's own part of Q's slot, which nobody reads any more: registers of an accumulator are scattered, and the
  /// copy engine stores whole rows with a handful of instructions.
  __device__ __forceinline__ void store(float (&o)[D / 2], const RowState& state, const TileHeader& tile,
                                        int slot) const {
    float inverse[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = row_sum(state.l[r]);
      inverse[r] = sum == 0 ? 0.0F : __fdividef(1.0F, sum);  // a row that sees nothing is 0; a NaN passes
      if (tile.slot >= 0) {
        store_partial(o, r, state.m[r] * kLn2, sum, tile);
        continue;
      }
      const int row = tile.first + warpgroup_ * p_.tokens + token_[r];
      if (p_.lse != nullptr && threadIdx.x % 4 == 0 && token_[r] < p_.tokens && row < tile.end)
        p_.lse[(tile.head * p_.group + head_[r]) * p_.lse_stride + row] =
            sum == 0 ? kNone : state.m[r] * kLn2 + __logf(sum);
    }
    if (tile.slot >= 0) return;
    // Matrices of 8 x 8: two column groups x two row halves at once, 16-byte pieces in Q's own swizzle.
    const int lane = threadIdx.x % 32;
    const std::uint32_t at = s_.q(slot, warpgroup_) + (threadIdx.x / 32 % 4 * 16 + lane % 16) * 128;
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
    hopper::proxy_fence();
    hopper::named_sync(3 + warpgroup_, 128);
    if (threadIdx.x / 32 % 4 == 0) send(tile, slot);
  }

  /// One warp. Whole warpgroups of rows go in one box a chunk; the last ones of a block token by token, because the
  /// rows behind them belong to another tile.
  __device__ __forceinline__ void send(const TileHeader& tile, int slot) const {
    const int lane = threadIdx.x % 32;
    const int first = tile.first + warpgroup_ * p_.tokens;
    const int count = min(tile.end - first, p_.tokens);
    const int head = tile.head * p_.group;
    const std::uint32_t from = s_.q(slot, warpgroup_);
    if (count == p_.tokens) {
      if (lane < L::kChunks) hopper::store_box(&p_.out, from + lane * L::kQChunk, lane * 64, head, first);
    } else {
#pragma unroll 1
      for (int n = lane; n < count * L::kChunks; n += 32) {
        const int token = n / L::kChunks;
        const int chunk = n % L::kChunks;
        hopper::store_box(&p_.out_row, from + chunk * L::kQChunk + token * p_.group * 128, chunk * 64, head,
                          first + token);
      }
    }
    hopper::store_commit();
  }

  /// Gives Q's slot back once the copy engine has read the rows that this thread sent from it.
  __device__ __forceinline__ void release_queries(int slot) const {
    hopper::store_wait_read();
    hopper::barrier_arrive(s_.q_empty(slot));
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

  using Softmax<D>::p_;
  using Softmax<D>::warpgroup_;
  using Softmax<D>::token_;
  using Softmax<D>::head_;
  const Shared<D>& s_;
};

}  // namespace purekv::cuda::sm90
