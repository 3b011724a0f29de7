#include "kernels/embed.h"

#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.cuh"

namespace purekv::cuda {
namespace {

/// Reads a table row, writes it widened: 6 bytes an element of a bf16 table.
template <class T, int N>
struct Embed {
  ConstMatrixView table;
  const std::int32_t* ids;
  MatrixView out;
  __device__ void operator()(std::int64_t row, int unit) const {
    float x[N];
    load_unit(row_of<T>(table, ids[row]) + unit * N, x);
    store_unit(row_of<float>(out, row) + unit * N, x);
  }
};

}  // namespace

void embed(const Context& context, const EmbedParams& params) {
  const EmbedParams& p = params;
  PUREKV_ASSERT(p.out.dtype == DType::kF32 && p.table.cols == p.out.cols);
  with_element(p.table.dtype, [&]<class T>(T) {
    with_unit(has_units(p.table) && has_units(p.out), [&]<int N>(std::integral_constant<int, N>) {
      launch_units(context, Embed<T, N>{p.table, p.ids, p.out}, p.out.rows, p.out.cols / N, "embedding");
    });
  });
}

}  // namespace purekv::cuda
