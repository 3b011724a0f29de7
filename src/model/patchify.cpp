#include "model/patchify.h"

#include <array>

namespace purekv {
namespace {

/// value -> (value - 255 mean) / (255 std), the fused form of the reference, for all 256 values.
std::array<std::array<float, 256>, 3> make_lookup(const PreprocessConfig& config) {
  std::array<std::array<float, 256>, 3> lookup{};
  const float scale = 1.0F / config.rescale;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t v = 0; v < 256; ++v)
      lookup[c][v] = (static_cast<float>(v) - scale * config.mean[c]) / (scale * config.std[c]);
  return lookup;
}

}  // namespace

void patchify(const PreprocessConfig& config, const PatchifyParams& params) {
  const auto lookup = make_lookup(config);
  const std::int64_t patch = config.patch;
  const std::int64_t merge = config.merge;
  const std::int64_t grid_w = params.width / patch;
  const std::int64_t rows = params.height / patch * grid_w;
  for (std::int64_t p = 0; p < rows; ++p) {
    const std::int64_t block = p / (merge * merge);
    const std::int64_t inside = p % (merge * merge);
    const std::int64_t y0 = (block / (grid_w / merge) * merge + inside / merge) * patch;
    const std::int64_t x0 = (block % (grid_w / merge) * merge + inside % merge) * patch;
    float* out = params.out.row<float>(p);
    for (std::size_t c = 0; c < 3; ++c)
      for (const std::uint8_t* frame : params.frames)
        for (std::int64_t y = y0; y < y0 + patch; ++y) {
          const std::uint8_t* in = frame + (y * params.width + x0) * 3 + static_cast<std::int64_t>(c);
          for (std::int64_t x = 0; x < patch; ++x) *out++ = lookup[c][in[x * 3]];
        }
  }
}

}  // namespace purekv
