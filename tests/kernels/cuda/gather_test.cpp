#include "kernels/gather.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "support/cuda.h"

namespace purekv {
namespace {

constexpr std::int64_t kHeads = 3;
constexpr std::int64_t kFrom = 1500, kTo = 700;  ///< rows that each side has room for

/// Tables of both sides over memory that begins `shift` bytes after `from` and `to`: keys and values of each head.
std::vector<KvRows> tables(std::uint8_t* from, std::uint8_t* to, std::int64_t row_bytes, std::int64_t count) {
  const std::int64_t counts[kHeads] = {count, count / 2, 0};
  std::vector<KvRows> rows;
  for (std::int64_t h = 0; h < kHeads; ++h)
    rows.push_back({from + 2 * h * kFrom * row_bytes, from + (2 * h + 1) * kFrom * row_bytes, kFrom});
  for (std::int64_t h = 0; h < kHeads; ++h)
    rows.push_back({to + 2 * h * kTo * row_bytes, to + (2 * h + 1) * kTo * row_bytes, counts[h]});
  return rows;
}

class CudaGather : public CudaTest {
 protected:
  void expect_equal(std::int64_t head_dim, DType dtype, std::int64_t count, bool named, std::int64_t shift) {
    const std::int64_t row_bytes = head_dim * static_cast<std::int64_t>(size_of(dtype));
    std::vector<std::uint8_t> in(static_cast<std::size_t>(2 * kHeads * kFrom * row_bytes + shift));
    for (std::uint8_t& x : in) x = static_cast<std::uint8_t>(random_());
    std::vector<std::uint8_t> want(static_cast<std::size_t>(2 * kHeads * kTo * row_bytes + shift), 0xFF);
    std::vector<std::int32_t> slots;
    for (std::int32_t h = 0; h < 3; ++h)
      for (std::int32_t i = 0; i < kTo; ++i) slots.push_back(2 * i + (i + h) % 2);
    const Buffer device_in = to_device(context_, in);
    const Buffer out = poisoned(context_, static_cast<std::int64_t>(want.size()));
    const Buffer device_slots = to_device(context_, slots);
    const std::vector<KvRows> host = tables(in.data() + shift, want.data() + shift, row_bytes, count);
    const Buffer device = to_device(
        context_, tables(device_in.as<std::uint8_t>() + shift, out.as<std::uint8_t>() + shift, row_bytes, count));
    GatherParams p{.shape = {.heads = kHeads, .kv_heads = kHeads, .head_dim = head_dim},
                   .dtype = dtype,
                   .from = host.data(),
                   .to = host.data() + kHeads,
                   .slots = named ? slots.data() : nullptr,
                   .slot_stride = kTo,
                   .most_rows = count};
    gather_rows(cpu_, p);
    p.from = device.as<KvRows>();
    p.to = p.from + kHeads;
    p.slots = named ? device_slots.as<std::int32_t>() : nullptr;
    gather_rows(context_, p);
    ASSERT_EQ(to_host<std::uint8_t>(context_, out.data(), out.bytes()), want)
        << head_dim << " dims, " << count << " rows, shift " << shift;
  }
  std::mt19937 random_{6};
};

TEST_F(CudaGather, RowsOfAnySizeFromAnyAddress) {
  for (const std::int64_t head_dim : {1, 3, 8, 64, 128, 625})
    for (const DType dtype : {DType::kF32, DType::kBF16})
      for (const std::int64_t count : {0, 1, 2, 100, 700})
        for (const bool named : {true, false})
          for (const std::int64_t shift : {0, 4}) expect_equal(head_dim, dtype, count, named, shift);
}

}  // namespace
}  // namespace purekv
