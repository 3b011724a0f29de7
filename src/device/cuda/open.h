#pragma once

#include <optional>
#include <string>

#include "device/context.h"

namespace purekv::cuda {

std::optional<std::string> why_unusable();  ///< nothing: open() will work
CudaDevice* open();
bool has_fp8(const CudaDevice& device);
std::string describe(const CudaDevice& device);

}  // namespace purekv::cuda
