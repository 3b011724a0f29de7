#include "kernels/decode_begin.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "device/context.h"
#include "support/random.h"

namespace purekv {
namespace {

TEST(DecodeBegin, RowsAndAngles) {
  const std::vector<float> table = random_floats(5LL * 6, 1);
  const std::vector<std::int32_t> ids = {3, -7};
  const std::vector<std::int32_t> positions = {0, 131071};
  const std::vector<float> inverse = {1.0F, 0.01F};
  std::vector<float> hidden(12), cos(4), sin(4);
  decode_begin({}, {.table = {table.data(), DType::kF32, 5, 6, 6},
                    .ids = ids.data(),
                    .positions = positions.data(),
                    .inverse_frequency = inverse.data(),
                    .half = 2,
                    .hidden = {hidden.data(), DType::kF32, 2, 6, 6},
                    .cos = cos.data(),
                    .sin = sin.data()});
  for (std::size_t j = 0; j < 6; ++j) {
    EXPECT_EQ(hidden[j], table[18 + j]);
    EXPECT_EQ(hidden[6 + j], table[j]);  // an id that names an error
  }
  for (std::size_t i = 0; i < 4; ++i) {
    const float angle = static_cast<float>(positions[i / 2]) * inverse[i % 2];
    EXPECT_EQ(cos[i], std::cos(angle));
    EXPECT_EQ(sin[i], std::sin(angle));
  }
}

TEST(DecodeBegin, EndCountsUp) {
  std::vector<KvRows> rows = {{nullptr, nullptr, 0}, {nullptr, nullptr, 41}, {nullptr, nullptr, 7}};
  std::vector<std::int32_t> positions = {9, 100};
  decode_end({}, {.rows = rows.data(), .count = 3, .positions = positions.data(), .sequences = 2});
  EXPECT_EQ(rows[0].rows, 1);
  EXPECT_EQ(rows[1].rows, 42);
  EXPECT_EQ(rows[2].rows, 8);
  EXPECT_EQ(positions, (std::vector<std::int32_t>{10, 101}));
}

}  // namespace
}  // namespace purekv
