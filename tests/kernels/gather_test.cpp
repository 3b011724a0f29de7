#include "kernels/gather.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace purekv {
namespace {

/// Bytes that differ from row to row.
std::vector<std::byte> pattern(std::int64_t bytes, int seed) {
  std::vector<std::byte> out(static_cast<std::size_t>(bytes));
  for (std::size_t i = 0; i < out.size(); ++i)
    out[i] = static_cast<std::byte>((i * 131 + i / 251 + static_cast<std::size_t>(seed)) % 256);
  return out;
}

constexpr std::int64_t kRows = 700;

/// Row i of head h comes from row 2 i + i % 2 (or i); heads keep count, count / 2 and none.
void expect_gathered(std::int64_t head_dim, DType dtype, std::int64_t count, bool named, int threads) {
  const std::int64_t bytes = head_dim * static_cast<std::int64_t>(size_of(dtype));
  const HeadShape shape{.heads = 3, .kv_heads = 3, .head_dim = head_dim};
  const std::int64_t counts[] = {count, count / 2, 0};
  std::vector<std::vector<std::byte>> in, out;
  std::vector<KvRows> from, to;
  std::vector<std::int32_t> slots;
  for (int h = 0; h < 3; ++h) {
    for (const int side : {0, 1}) {
      in.push_back(pattern(2 * kRows * bytes, 2 * h + side));
      out.emplace_back(static_cast<std::size_t>(counts[h] * bytes + 1), std::byte{0xA5});
    }
    for (std::int32_t i = 0; i < kRows; ++i) slots.push_back(2 * i + i % 2);
  }
  for (std::size_t h = 0; h < 3; ++h) {
    from.push_back({in[2 * h].data(), in[2 * h + 1].data(), 2 * kRows});
    to.push_back({out[2 * h].data(), out[2 * h + 1].data(), counts[h]});
  }
  gather_rows({.threads = threads}, {.shape = shape,
                                     .dtype = dtype,
                                     .from = from.data(),
                                     .to = to.data(),
                                     .slots = named ? slots.data() : nullptr,
                                     .slot_stride = kRows,
                                     .most_rows = count});
  for (std::size_t n = 0; n < out.size(); ++n) {
    for (std::int64_t i = 0; i < counts[n / 2]; ++i)
      ASSERT_EQ(std::memcmp(out[n].data() + i * bytes,
                            in[n].data() + (named ? slots[static_cast<std::size_t>(i)] : i) * bytes,
                            static_cast<std::size_t>(bytes)),
                0)
          << head_dim << " dims, row " << i;
    EXPECT_EQ(out[n].back(), std::byte{0xA5});
  }
}

TEST(Gather, RowsOfAnySizeOnAnyThreads) {
  for (const std::int64_t head_dim : {1, 3, 31, 128, 1250})
    for (const DType dtype : {DType::kF32, DType::kBF16})
      for (const std::int64_t count : {0, 1, 2, 100, 700})
        for (const bool named : {true, false})
          for (const int threads : {1, 2, 5}) expect_gathered(head_dim, dtype, count, named, threads);
}

}  // namespace
}  // namespace purekv
