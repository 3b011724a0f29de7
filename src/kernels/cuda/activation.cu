#include "kernels/activation.h"

#include <numbers>

#include "kernels/cuda/ops.h"
#include "kernels/cuda/rows.cuh"

namespace purekv::cuda {
namespace {

/// Reads both, writes gate: 6 bytes an element in bf16.
template <class T, int N>
struct SwiGlu {
  MatrixView gate;
  ConstMatrixView up;
  __device__ void operator()(std::int64_t row, int unit) const {
    T* place = row_of<T>(gate, row) + unit * N;
    float x[N];
    float y[N];
    load_unit(place, x);
    load_unit(row_of<T>(up, row) + unit * N, y);
#pragma unroll
    for (int i = 0; i < N; ++i) x[i] = silu(x[i]) * y[i];
    store_unit(place, x);
  }
};

/// Reads and writes x: 4 bytes an element in bf16. By erfc: 1 + erf loses the digits of far negative x.
template <class T, int N>
struct Gelu {
  MatrixView x;
  __device__ void operator()(std::int64_t row, int unit) const {
    T* place = row_of<T>(x, row) + unit * N;
    float v[N];
    load_unit(place, v);
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] *= 0.5F * erfcf(-v[i] / std::numbers::sqrt2_v<float>);
    store_unit(place, v);
  }
};

}  // namespace

void swiglu(const Context& context, const MatrixView& gate, const ConstMatrixView& up) {
  PUREKV_ASSERT(gate.rows == up.rows && gate.cols == up.cols && gate.dtype == up.dtype);
  with_element(gate.dtype, [&]<class T>(T) {
    with_unit(has_units(gate) && has_units(up), [&]<int N>(std::integral_constant<int, N>) {
      launch_units(context, SwiGlu<T, N>{gate, up}, gate.rows, gate.cols / N, "swiglu");
    });
  });
}

void gelu(const Context& context, const MatrixView& x) {
  with_element(x.dtype, [&]<class T>(T) {
    with_unit(has_units(x), [&]<int N>(std::integral_constant<int, N>) {
      launch_units(context, Gelu<T, N>{x}, x.rows, x.cols / N, "gelu");
    });
  });
}

}  // namespace purekv::cuda
