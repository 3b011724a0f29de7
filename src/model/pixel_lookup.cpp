#include "model/pixel_lookup.h"

namespace purekv {

std::vector<float> make_pixel_lookup(const PreprocessConfig& config) {
  const float scale = 1.0F / config.rescale;
  std::vector<float> lookup;
  for (std::size_t c = 0; c < 3; ++c)
    for (int v = 0; v < 256; ++v)
      lookup.push_back((static_cast<float>(v) - scale * config.mean[c]) / (scale * config.std[c]));
  return lookup;
}

}  // namespace purekv
