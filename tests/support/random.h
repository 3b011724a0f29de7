#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "base/shape.h"
#include "flow/kv_view.h"

namespace purekv {

inline std::vector<float> random_floats(std::int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<std::size_t>(count));
  for (float& value : x) value = normal(random);
  return x;
}

/// View of k and v [kv_heads][rows][head_dim] float32.
inline KvView kv_view(const HeadShape& shape, std::int64_t rows, const std::vector<float>& k,
                      const std::vector<float>& v) {
  KvView view;
  for (std::int64_t h = 0; h < shape.kv_heads; ++h) {
    const std::int64_t at = h * rows * shape.head_dim;
    view.heads.push_back({k.data() + at, v.data() + at, rows, shape.head_dim});
  }
  return view;
}

}  // namespace purekv
