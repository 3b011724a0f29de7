#include "kernels/embed.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/rows_reference.h"
#include "kernels/rows_variants.h"
#include "purekv/error.h"

namespace purekv {
namespace {

TEST(Embed, EveryVariantWidensEveryHalfExactly) {
  // All 65536 bit patterns of both types, from an odd address; NaN against NaN.
  std::vector<std::byte> table(2 * 65536 + 1);
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    std::memcpy(table.data() + 1 + 2 * i, &bits, sizeof bits);
  }
  for (const RowsIsa* isa : rows_variants())
    for (const DType type : {DType::kBF16, DType::kF16}) {
      std::vector<float> out(65536, 7.0F);
      isa->widen(table.data() + 1, type, 65536, out.data());
      const ConstMatrixView view(table.data() + 1, type, 1, 65536, 65536);
      for (std::int64_t i = 0; i < 65536; ++i) {
        const float want = stored_element(view, 0, i);
        const float got = out[static_cast<std::size_t>(i)];
        const bool both_nan = got != got && want != want;
        ASSERT_TRUE(both_nan || std::memcmp(&got, &want, sizeof got) == 0) << isa->name << ' ' << i;
      }
    }
}

TEST(Embed, EveryLengthAndStride) {
  for (const DType type : {DType::kF32, DType::kBF16, DType::kF16})
    for (const std::int64_t cols : {1, 2, 7, 8, 9, 15, 16, 17, 33, 896}) {
      const std::int64_t stride = cols + 1;
      // Exactly up to the last value: a read past it is one that the sanitizers see.
      std::vector<std::byte> table(static_cast<std::size_t>(4 * stride + cols) * size_of(type));
      for (std::size_t i = 0; i < table.size(); ++i) table[i] = static_cast<std::byte>((i * 37 + 11) % 120);
      const std::vector<std::int32_t> ids = {4, 0, 4, 2};
      std::vector<float> out(static_cast<std::size_t>(4 * (cols + 2)), -1.0F);
      const ConstMatrixView view(table.data(), type, 5, cols, stride);
      embed({.threads = 2}, {.table = view, .ids = ids.data(), .out = {out.data(), DType::kF32, 4, cols, cols + 2}});
      for (std::int64_t r = 0; r < 4; ++r)
        for (std::int64_t c = 0; c < cols + 2; ++c)
          ASSERT_EQ(out[static_cast<std::size_t>(r * (cols + 2) + c)],
                    c < cols ? stored_element(view, ids[static_cast<std::size_t>(r)], c) : -1.0F);
    }
}

TEST(Embed, RefusesAnIdBeyondTheTable) {
  const std::vector<float> table(6, 1.0F);
  std::vector<float> out(2, 0.0F);
  for (const std::int32_t id : {-1, 3, std::numeric_limits<std::int32_t>::max()})
    EXPECT_THROW(
        embed({},
              {.table = {table.data(), DType::kF32, 3, 2, 2}, .ids = &id, .out = {out.data(), DType::kF32, 1, 2, 2}}),
        Error);
}

}  // namespace
}  // namespace purekv
