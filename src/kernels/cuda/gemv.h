#pragma once

#include "device/context.h"
#include "kernels/linear.h"

/// Products of few rows (a decode step) with a weight: bound by the weight's bytes, which are read once a call.
namespace purekv::cuda {

/// Whether gemv() can: 1 to 16 rows, bf16 or fp8 weights, 16-byte aligned rows, and x fits where it has to be. Beside
/// fp8 weights x is bf16 (large products round it to e4m3): the weights' bytes are all that counts here.
bool gemv_takes(const Context& context, const LinearParams& params);
void gemv(const Context& context, const LinearParams& params);

/// The same of the gated pair, both weights in one pass.
bool gated_gemv_takes(const Context& context, const GatedLinearParams& params);
void gated_gemv(const Context& context, const GatedLinearParams& params);

}  // namespace purekv::cuda
