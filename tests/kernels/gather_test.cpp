#include "kernels/gather.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

namespace purekv {
namespace {

TEST(Gather, RowsOfAnySizeOnAnyThreads) {
  for (const std::int64_t row_bytes : {1, 2, 31, 128, 5000})
    for (const std::int64_t count : {0, 1, 2, 100, 700}) {
      std::vector<std::byte> in(static_cast<std::size_t>(2 * 700 * row_bytes));
      for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::byte>((i * 131 + i / 251) % 256);
      std::vector<std::int32_t> rows;
      for (std::int32_t i = 0; i < count; ++i) rows.push_back(2 * i + i % 2);
      std::vector<std::byte> expected;
      for (const std::int32_t row : rows)
        expected.insert(expected.end(), in.begin() + row * row_bytes, in.begin() + (row + 1) * row_bytes);
      expected.push_back(std::byte{0xA5});
      for (const int threads : {1, 2, 5}) {
        std::vector<std::byte> out(expected.size(), std::byte{0xA5});
        gather_rows({.threads = threads},
                    {.in = in.data(), .rows = rows.data(), .count = count, .row_bytes = row_bytes, .out = out.data()});
        EXPECT_EQ(out, expected) << row_bytes << " bytes, " << count << " rows";
      }
    }
}

}  // namespace
}  // namespace purekv
