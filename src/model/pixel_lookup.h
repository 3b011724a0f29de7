#pragma once

#include <vector>

#include "model/config.h"

namespace purekv {

/// [3, 256]: byte v of channel c as (v - 255 mean) / (255 std), the fused form of the reference.
std::vector<float> make_pixel_lookup(const PreprocessConfig& config);

}  // namespace purekv
