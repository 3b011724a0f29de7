#include "model/positions.h"

#include <algorithm>
#include <cmath>

#include "device/transfer.h"
#include "kernels/rope_table.h"

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

/// positions: [axes][rows], one after the other.
RopeTable make_table(const Context& context, const std::vector<std::int32_t>& positions, std::int64_t rows,
                     const std::vector<float>& frequency, const std::vector<std::int32_t>& axis) {
  RopeTable table;
  table.rows = rows;
  table.half = static_cast<std::int64_t>(frequency.size());
  const std::int64_t bytes = rows * table.half * static_cast<std::int64_t>(sizeof(float));
  table.cos = Buffer(context, bytes);
  table.sin = Buffer(context, bytes);
  const Buffer at = to_device(context, positions);
  const Buffer turns = to_device(context, frequency);
  const Buffer axes = to_device(context, axis);
  rope_table(context, {.positions = at.as<std::int32_t>(),
                       .rows = rows,
                       .frequency = turns.as<float>(),
                       .axis = axes.as<std::int32_t>(),
                       .half = table.half,
                       .cos = table.cos.as<float>(),
                       .sin = table.sin.as<float>()});
  return table;
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

std::vector<float> text_frequencies(const TextConfig& config) {
  return inverse_frequencies(config.rope_theta, config.heads.head_dim, config.heads.head_dim / 2);
}

RopeTable make_rope_table(const Context& context, const TextConfig& config, const Positions& positions) {
  const std::int64_t half = config.heads.head_dim / 2;
  const std::int64_t end_t = config.mrope_section[0];
  const std::int64_t end_h = end_t + config.mrope_section[1];
  std::vector<std::int32_t> axis;
  for (std::int64_t j = 0; j < half; ++j) axis.push_back(j < end_t ? 0 : j < end_h ? 1 : 2);
  std::vector<std::int32_t> all;
  all.reserve(3 * positions.axis[0].size());
  for (const auto& one : positions.axis) all.insert(all.end(), one.begin(), one.end());
  return make_table(context, all, positions.rows(), text_frequencies(config), axis);
}

RopeTable make_vision_rope_table(const Context& context, const VisionConfig& config, std::int64_t grid_w,
                                 std::span<const std::int32_t> cells, std::int64_t slices) {
  const std::int64_t head_dim = config.hidden / config.heads;
  const std::vector<float> inverse = inverse_frequencies(10000.0, head_dim / 2, head_dim / 4);
  const std::int64_t cols = grid_w / config.merge;
  std::vector<std::int32_t> y;
  std::vector<std::int32_t> x;
  for (std::int64_t slice = 0; slice < slices; ++slice)
    for (const std::int32_t cell : cells)
      for (std::int64_t patch = 0; patch < config.merge * config.merge; ++patch) {
        y.push_back(static_cast<std::int32_t>(cell / cols * config.merge + patch / config.merge));
        x.push_back(static_cast<std::int32_t>(cell % cols * config.merge + patch % config.merge));
      }
  const auto rows = static_cast<std::int64_t>(y.size());
  y.insert(y.end(), x.begin(), x.end());
  std::vector<float> frequency(inverse);
  frequency.insert(frequency.end(), inverse.begin(), inverse.end());
  std::vector<std::int32_t> axis(frequency.size(), 1);
  std::fill_n(axis.begin(), inverse.size(), 0);
  return make_table(context, y, rows, frequency, axis);
}

}  // namespace purekv
