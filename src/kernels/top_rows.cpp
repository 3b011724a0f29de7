#include "kernels/top_rows.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace purekv {

std::vector<std::int32_t> top_rows(const Context& /*context*/, const float* score, std::int64_t rows,
                                   std::int64_t count) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(rows));
  std::iota(order.begin(), order.end(), 0);
  if (count >= rows) return order;
  const auto better = [score](std::int32_t a, std::int32_t b) {
    const float x = score[a];
    const float y = score[b];
    if (std::isnan(x) || std::isnan(y)) return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
    return x != y ? x > y : a < b;
  };
  const auto cut = order.begin() + std::max<std::int64_t>(0, count);
  std::nth_element(order.begin(), cut, order.end(), better);
  order.erase(cut, order.end());
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace purekv
