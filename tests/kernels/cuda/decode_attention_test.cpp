#include "kernels/decode_attention.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device/buffer.h"
#include "support/cuda.h"

namespace purekv {
namespace {

/// Ragged heads on the device and, rounded the same, on the host.
struct Heads {
  std::vector<Buffer> buffers;
  std::vector<std::vector<std::uint16_t>> k, v;
  std::vector<KvRows> device, host;

  Heads(const Context& context, const std::vector<std::int64_t>& held, std::int64_t dim, float key_scale,
        std::mt19937& random) {
    for (const std::int64_t rows : held) {
      // The row that is still to come is NaN until it is written.
      const auto make = [&](float scale) {
        std::vector<float> x = normal_floats(rows * dim, random, scale);
        std::vector<std::uint16_t> bits = round_to_bf16(x);
        bits.resize(static_cast<std::size_t>((rows + 1) * dim), 0xFFFF);
        return bits;
      };
      k.push_back(make(key_scale));
      v.push_back(make(1));
      buffers.push_back(to_device(context, k.back()));
      buffers.push_back(to_device(context, v.back()));
      device.push_back({buffers[buffers.size() - 2].data(), buffers.back().data(), rows});
    }
    for (std::size_t i = 0; i < held.size(); ++i) host.push_back({k[i].data(), v[i].data(), held[i]});
  }
};

struct Case {
  std::string name;
  HeadShape shape;
  std::vector<std::int64_t> held;  ///< [sequences][kv_heads]
  float key_scale = 1;
};

class CudaDecodeAttention : public CudaTest {
 protected:
  void check(const Case& c) {
    SCOPED_TRACE(c.name);
    std::mt19937 random(7);
    const HeadShape& s = c.shape;
    const auto sequences = static_cast<std::int64_t>(c.held.size()) / s.kv_heads;
    const std::int64_t width = (s.heads + 2 * s.kv_heads) * s.head_dim;
    const std::int64_t wide = s.heads * s.head_dim;
    std::vector<float> qkv = normal_floats(sequences * width, random);
    const Buffer qkv_bits = to_device(context_, round_to_bf16(qkv));
    std::vector<float> cos;
    std::vector<float> sin;
    for (const float angle : normal_floats(sequences * s.head_dim / 2, random, 3)) {
      cos.push_back(std::cos(angle));
      sin.push_back(std::sin(angle));
    }
    const Buffer cos_device = to_device(context_, cos);
    const Buffer sin_device = to_device(context_, sin);
    const Heads heads(context_, c.held, s.head_dim, c.key_scale, random);
    const Buffer rows = to_device(context_, heads.device);
    std::int64_t most = 0;
    for (const std::int64_t held : c.held) most = std::max(most, held);
    const std::int64_t elements = decode_attention_work(context_, s, sequences, most);
    const Buffer work(context_, elements * 4);
    fill_zero(context_, work.data(), elements * 4);
    const Buffer out = poisoned(context_, sequences * wide * 2);
    DecodeAttentionParams p{.shape = s,
                            .scale = 1.0F / std::sqrt(static_cast<float>(s.head_dim)),
                            .qkv = {qkv_bits.data(), DType::kBF16, sequences, width, width},
                            .cos = cos_device.as<float>(),
                            .sin = sin_device.as<float>(),
                            .dtype = DType::kBF16,
                            .rows = rows.as<KvRows>(),
                            .most_rows = most,
                            .out = {out.data(), DType::kBF16, sequences, wide, wide},
                            .work = {work.data(), DType::kF32, 1, elements, elements}};
    decode_attention(context_, p);
    const auto got = to_host<std::uint16_t>(context_, out.data(), sequences * wide);

    std::vector<float> expected(static_cast<std::size_t>(sequences * wide));
    p.qkv = {qkv.data(), DType::kF32, sequences, width, width};
    p.cos = cos.data();
    p.sin = sin.data();
    p.rows = heads.host.data();
    p.out = {expected.data(), DType::kF32, sequences, wide, wide};
    decode_attention(cpu_, p);
    EXPECT_LE(nmse(widen(got), expected), 5e-4);
    expect_appended(c, heads);

    // The same history gives the same bits, and the counters in `work` are left as they were found.
    p.qkv = {qkv_bits.data(), DType::kBF16, sequences, width, width};
    p.cos = cos_device.as<float>();
    p.sin = sin_device.as<float>();
    p.rows = rows.as<KvRows>();
    p.out = {out.data(), DType::kBF16, sequences, wide, wide};
    decode_attention(context_, p);
    EXPECT_EQ(to_host<std::uint16_t>(context_, out.data(), sequences * wide), got);
  }

  /// The CPU twin has written its own rows: rotated keys may differ in the last bit, values may not.
  void expect_appended(const Case& c, const Heads& heads) {
    const std::int64_t dim = c.shape.head_dim;
    for (std::size_t i = 0; i < c.held.size(); ++i) {
      const auto at = static_cast<std::ptrdiff_t>(c.held[i] * dim);
      const auto k = to_host<std::uint16_t>(context_, heads.device[i].k, (c.held[i] + 1) * dim);
      const auto v = to_host<std::uint16_t>(context_, heads.device[i].v, (c.held[i] + 1) * dim);
      EXPECT_EQ(v, heads.v[i]);
      EXPECT_TRUE(std::equal(k.begin(), k.begin() + at, heads.k[i].begin()));
      EXPECT_LE(nmse(widen({k.begin() + at, k.end()}), widen({heads.k[i].begin() + at, heads.k[i].end()})), 1e-5);
    }
  }
};

TEST_F(CudaDecodeAttention, RaggedHeads) {
  check({"no rows", {28, 4, 128}, {0, 0, 0, 0}});
  check({"few rows", {28, 4, 128}, {1, 15, 16, 17}});
  check({"piece borders", {28, 4, 128}, {127, 128, 129, 255}});
  check({"one long head", {28, 4, 128}, {9000, 3, 0, 512}});
  check({"two sequences", {28, 4, 128}, {300, 1000, 5000, 0, 2000, 7, 128, 256}});
  check({"large keys", {28, 4, 128}, {700, 701, 702, 703}, 8});
}

TEST_F(CudaDecodeAttention, HeadShapes) {
  check({"one head", {1, 1, 128}, {1000}});
  check({"group 16", {16, 1, 128}, {1000}});
  check({"group 9, dim 256", {18, 2, 256}, {300, 70}});
  check({"dim 64", {9, 3, 64}, {100, 3000, 0}});
  check({"no groups", {8, 8, 64}, {100, 300, 0, 1, 2, 3, 4, 5}});
  check({"dim 80", {4, 2, 80}, {513, 77}});
  check({"dim 6", {14, 2, 6}, {513, 77}});
  check({"dim 250", {24, 2, 250}, {513, 77}});
  check({"dim 2", {4, 2, 2}, {40, 0}});
}

TEST_F(CudaDecodeAttention, ManySequences) {
  std::vector<std::int64_t> held;
  for (std::int64_t i = 0; i < 40LL * 8; ++i) held.push_back(i * 7919 % 300);
  check({"40 sequences", {32, 8, 64}, held});
}

}  // namespace
}  // namespace purekv
