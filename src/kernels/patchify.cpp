#include "kernels/patchify.h"

#include "base/fail.h"
#include "kernels/cpu/rows_parallel.h"
#include "kernels/cuda/ops.h"

namespace purekv {
namespace {

void patchify_row(const PatchifyParams& p, std::int64_t row) {
  const std::int64_t cols = p.width / p.patch / p.merge;
  const std::int64_t rows = p.height / p.patch * (p.width / p.patch);
  const std::int64_t cell = row % rows / (p.merge * p.merge);
  const std::int64_t inside = row % (p.merge * p.merge);
  const std::int64_t y0 = (cell / cols * p.merge + inside / p.merge) * p.patch;
  const std::int64_t x0 = (cell % cols * p.merge + inside % p.merge) * p.patch;
  const std::uint8_t* slice = p.frames + row / rows * p.temporal * p.height * p.width * 3;
  float* out = p.out.row<float>(row);
  for (std::int64_t c = 0; c < 3; ++c)
    for (std::int64_t f = 0; f < p.temporal; ++f)
      for (std::int64_t y = y0; y < y0 + p.patch; ++y) {
        const std::uint8_t* in = slice + ((f * p.height + y) * p.width + x0) * 3 + c;
        for (std::int64_t x = 0; x < p.patch; ++x) *out++ = p.lookup[c * 256 + in[x * 3]];
      }
}

}  // namespace

void patchify(const Context& context, const PatchifyParams& params) {
  const PatchifyParams& p = params;
  PUREKV_ASSERT(p.out.dtype == DType::kF32 && p.out.cols == 3 * p.temporal * p.patch * p.patch);
  PUREKV_ASSERT(p.height % (p.patch * p.merge) == 0 && p.width % (p.patch * p.merge) == 0);
  PUREKV_ASSERT(p.out.rows % (p.height / p.patch * (p.width / p.patch)) == 0);
  if constexpr (kHasCuda)
    if (context.backend == Backend::kCuda) return cuda::patchify(context, p);
  for_rows(context.threads, p.out.rows, p.out.cols, [&](std::int64_t row) { patchify_row(p, row); });
}

}  // namespace purekv
