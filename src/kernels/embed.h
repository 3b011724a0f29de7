#pragma once
#include "base/matrix.h"
#include "device/context.h"
namespace purekv {
struct EmbedParams {
  ConstMatrixView table;
  const std::int32_t* ids = nullptr;
  MatrixView out;
};
void embed(const Context& context, const EmbedParams& params);
}  // namespace purekv
