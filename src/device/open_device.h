#pragma once

#include <optional>
#include <string>

#include "device/context.h"

namespace purekv {

/// The GPU of this process, opened on first use; it stays open. Throws Error(kResource) that names what is missing (no
/// CUDA in this build, no driver or an old one, no GPU, compute capability below 8.0) and `--device cpu`.
CudaDevice* open_cuda_device();

/// The same without an exception: nothing where a GPU can be used, else why not.
std::optional<std::string> why_no_cuda();

/// Whether the context's device multiplies e4m3 (compute capability 8.9 and newer).
bool has_fp8(const Context& context);

/// The device's name and memory for people, "NVIDIA H200, 139.8 GiB"; "cpu" on the CPU.
std::string describe_device(const Context& context);

}  // namespace purekv
