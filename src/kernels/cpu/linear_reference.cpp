#include "kernels/cpu/rows_reference.h"

namespace purekv {

void linear_reference(const Context& context, const LinearParams& p) {
  const bool round = context.compute == DType::kBF16 && p.w.weight.dtype == DType::kBF16;
  for (std::int64_t r = 0; r < p.x.rows; ++r)
    for (std::int64_t o = 0; o < p.w.weight.rows; ++o) {
      double sum = p.w.bias != nullptr ? p.w.bias[o] : 0.0;
      for (std::int64_t k = 0; k < p.x.cols; ++k) {
        const float x = p.x.row<float>(r)[k];
        sum += static_cast<double>(round ? to_float(to_bf16(x)) : x) *
               static_cast<double>(stored_element(p.w.weight, o, k));
      }
      float& out = p.out.row<float>(r)[o];
      out = static_cast<float>(p.accumulate ? static_cast<double>(out) + sum : sum);
    }
}

}  // namespace purekv
