#pragma once

#include "base/matrix.h"
#include "device/context.h"

namespace purekv::cuda {

/// out = in, rounded to bf16; both [rows, cols].
void narrow(const Context& context, const ConstMatrixView& in, const MatrixView& out);

}  // namespace purekv::cuda
