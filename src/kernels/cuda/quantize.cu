#include "kernels/quantize.h"

#include "kernels/cuda/narrow.h"
#include "kernels/cuda/ops.h"
#include "kernels/cuda/quantize.cuh"

namespace purekv::cuda {
namespace {

/// Rows as they are: 2 or 4 bytes an element.
template <class T>
struct RowsSource {
  static constexpr bool kNorm = false;
  using Raw = RawUnit<T>;
  using Unit = Raw;
  ConstMatrixView x;

  __device__ Raw load(std::int64_t row, int unit) const { return load_raw(row_of<T>(x, row) + unit * kUnit); }
  __device__ Unit make(const Raw& raw, int, float&) const { return raw; }
  __device__ float element(std::int64_t row, std::int64_t i, float&) const {
    return static_cast<float>(row_of<T>(x, row)[i]);
  }
};

/// Reads 4 bytes, writes 2 an element.
template <int N>
struct Narrow {
  ConstMatrixView in;
  MatrixView out;
  __device__ void operator()(std::int64_t row, int unit) const {
    float x[N];
    load_unit(row_of<float>(in, row) + unit * N, x);
    store_unit(row_of<__nv_bfloat16>(out, row) + unit * N, x);
  }
};

}  // namespace

void quantize_rows(const Context& context, const QuantizeParams& p) {
  with_element(p.in.dtype, [&]<class T>(T) {
    quantize(context, RowsSource<T>{p.in}, {p.out, p.scales}, has_units(p.in));
  });
}

void narrow(const Context& context, const ConstMatrixView& in, const MatrixView& out) {
  PUREKV_ASSERT(in.dtype == DType::kF32 && out.dtype == DType::kBF16 && in.rows == out.rows && in.cols == out.cols);
  with_unit(has_units(in) && has_units(out), [&]<int N>(std::integral_constant<int, N>) {
    launch_units(context, Narrow<N>{in, out}, in.rows, in.cols / N, "rounding rows");
  });
}

}  // namespace purekv::cuda
