#include "kernels/embed.h"

#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.cuh"

namespace purekv::cuda {
namespace {

/// Reads a table row, writes it in the type of out: 4 bytes an element in bf16, 6 where it is widened.
template <class T, class Out, int N>
struct Embed {
  ConstMatrixView table;
  const std::int32_t* ids;
  MatrixView out;
  __device__ void operator()(std::int64_t row, int unit) const {
    float x[N];
    load_unit(row_of<T>(table, ids[row]) + unit * N, x);
    store_unit(row_of<Out>(out, row) + unit * N, x);
  }
};

}  // namespace

void embed(const Context& context, const EmbedParams& params) {
  const EmbedParams& p = params;
  PUREKV_ASSERT(p.table.cols == p.out.cols);
  with_element(p.table.dtype, [&]<class T>(T) {
    with_element(p.out.dtype, [&]<class Out>(Out) {
      with_unit(has_units(p.table) && has_units(p.out), [&]<int N>(std::integral_constant<int, N>) {
        launch_units(context, Embed<T, Out, N>{p.table, p.ids, p.out}, p.out.rows, p.out.cols / N, "embedding");
      });
    });
  });
}

}  // namespace purekv::cuda
