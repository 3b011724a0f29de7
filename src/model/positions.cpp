#include "model/positions.h"

#include <algorithm>
#include <cmath>

namespace purekv {
namespace {

/// 1 / theta^(2j / dim), rounded to float32 as the reference holds it.
std::vector<float> inverse_frequencies(double theta, std::int64_t dim, std::int64_t count) {
  std::vector<float> inv(static_cast<std::size_t>(count));
  for (std::int64_t j = 0; j < count; ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(dim);
    inv[static_cast<std::size_t>(j)] = 1.0F / static_cast<float>(std::pow(theta, static_cast<double>(exponent)));
  }
  return inv;
}

void push_angle(RopeTable& table, float angle) {
  table.cos.push_back(std::cos(angle));
  table.sin.push_back(std::sin(angle));
}

void push_text(Positions& positions, std::int64_t rows) {
  for (std::int64_t i = 0; i < rows; ++i, ++positions.next)
    for (auto& axis : positions.axis) axis.push_back(positions.next);
}

void push_vision(Positions& positions, const PositionRun& run, double tokens_per_second) {
  const std::int32_t start = positions.next;
  std::int32_t last = start;
  for (std::int64_t k = 0; k < run.grid_t; ++k) {
    // float32 throughout, as the reference's tensor arithmetic is; truncated after the product.
    const float seconds = static_cast<float>(k) * static_cast<float>(run.second_per_grid);
    const auto t = start + static_cast<std::int32_t>(seconds * static_cast<float>(tokens_per_second));
    last = std::max(last, t);
    for (std::int64_t y = 0; y < run.grid_h; ++y)
      for (std::int64_t x = 0; x < run.grid_w; ++x) {
        positions.axis[0].push_back(t);
        positions.axis[1].push_back(start + static_cast<std::int32_t>(y));
        positions.axis[2].push_back(start + static_cast<std::int32_t>(x));
      }
  }
  const auto widest = static_cast<std::int32_t>(std::max(run.grid_h, run.grid_w));
  positions.next = std::max(last + 1, start + widest);
}

}  // namespace

Positions make_positions(std::span<const PositionRun> runs, double tokens_per_second) {
  Positions positions;
  for (const PositionRun& run : runs) {
    if (run.grid_t > 0)
      push_vision(positions, run, tokens_per_second);
    else
      push_text(positions, run.text);
  }
  return positions;
}

RopeTable make_rope_table(const TextConfig& config, const Positions& positions) {
  const std::int64_t half = config.heads.head_dim / 2;
  const auto inv = inverse_frequencies(config.rope_theta, config.heads.head_dim, half);
  RopeTable table;
  table.cos.reserve(static_cast<std::size_t>(half * positions.rows()));
  table.sin.reserve(static_cast<std::size_t>(half * positions.rows()));
  const std::int64_t end_t = config.mrope_section[0];
  const std::int64_t end_h = end_t + config.mrope_section[1];
  for (std::size_t row = 0; row < positions.axis[0].size(); ++row)
    for (std::int64_t j = 0; j < half; ++j) {
      const std::size_t axis = j < end_t ? 0 : j < end_h ? 1 : 2;
      push_angle(table, static_cast<float>(positions.axis[axis][row]) * inv[static_cast<std::size_t>(j)]);
    }
  return table;
}

RopeTable make_rope_table(const TextConfig& config, std::int32_t position) {
  Positions one;
  for (auto& axis : one.axis) axis.push_back(position);
  return make_rope_table(config, one);
}

RopeTable make_vision_rope_table(const VisionConfig& config, std::int64_t grid_h, std::int64_t grid_w) {
  const std::int64_t head_dim = config.hidden / config.heads;
  const auto inv = inverse_frequencies(10000.0, head_dim / 2, head_dim / 4);
  const std::int64_t merge = config.merge;
  RopeTable table;
  for (std::int64_t block_y = 0; block_y < grid_h; block_y += merge)
    for (std::int64_t block_x = 0; block_x < grid_w; block_x += merge)
      for (std::int64_t y = block_y; y < block_y + merge; ++y)
        for (std::int64_t x = block_x; x < block_x + merge; ++x) {
          for (const float f : inv) push_angle(table, static_cast<float>(y) * f);
          for (const float f : inv) push_angle(table, static_cast<float>(x) * f);
        }
  return table;
}

}  // namespace purekv
