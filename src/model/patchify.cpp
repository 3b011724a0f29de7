#include "model/patchify.h"

#include <algorithm>
#include <array>

#include "base/parallel.h"

namespace purekv {
namespace {

using Lookup = std::array<std::array<float, 256>, 3>;

/// value -> (value - 255 mean) / (255 std), the fused form of the reference, for all 256 values.
Lookup make_lookup(const PreprocessConfig& config) {
  Lookup lookup{};
  const float scale = 1.0F / config.rescale;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t v = 0; v < 256; ++v)
      lookup[c][v] = (static_cast<float>(v) - scale * config.mean[c]) / (scale * config.std[c]);
  return lookup;
}

void patchify_row(const PreprocessConfig& config, const PatchifyParams& params, const Lookup& lookup, std::int64_t p) {
  const std::int64_t patch = config.patch;
  const std::int64_t merge = config.merge;
  const std::int64_t cols = params.width / patch / merge;
  const std::int64_t block = p / (merge * merge);
  const std::int64_t inside = p % (merge * merge);
  const std::int64_t y0 = (block / cols * merge + inside / merge) * patch;
  const std::int64_t x0 = (block % cols * merge + inside % merge) * patch;
  float* out = params.out.row<float>(p);
  for (std::size_t c = 0; c < 3; ++c)
    for (const std::uint8_t* frame : params.frames)
      for (std::int64_t y = y0; y < y0 + patch; ++y) {
        const std::uint8_t* in = frame + (y * params.width + x0) * 3 + static_cast<std::int64_t>(c);
        for (std::int64_t x = 0; x < patch; ++x) *out++ = lookup[c][in[x * 3]];
      }
}

}  // namespace

void patchify(const PreprocessConfig& config, const PatchifyParams& params) {
  constexpr std::int64_t kItemRows = 64;  // 75,000 values, tens of microseconds
  const Lookup lookup = make_lookup(config);
  const std::int64_t rows = params.out.rows;
  parallel_for(params.threads, (rows + kItemRows - 1) / kItemRows, [&](std::int64_t item) {
    for (std::int64_t p = item * kItemRows; p < std::min(rows, (item + 1) * kItemRows); ++p)
      patchify_row(config, params, lookup, p);
  });
}

}  // namespace purekv
