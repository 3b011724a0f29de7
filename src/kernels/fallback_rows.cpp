#include <cmath>
#include <cstring>
#include <vector>
#include "base/parallel.h"
#include "kernels/activation.h"
#include "kernels/embed.h"
#include "kernels/gather.h"
#include "kernels/linear.h"
#include "kernels/rms_norm.h"
#include "kernels/rope.h"
namespace purekv {
namespace {
float load(const void* p, DType t, std::int64_t i) {
  if (t == DType::kF32) {
    float f;
    std::memcpy(&f, static_cast<const char*>(p) + i * 4, 4);
    return f;
  }
  std::uint16_t u;
  std::memcpy(&u, static_cast<const char*>(p) + i * 2, 2);
  return t == DType::kBF16 ? to_float(BFloat16{u}) : to_float(Float16{u});
}
}  // namespace
void linear(const Context& c, const LinearParams& p) {
  parallel_for(c.threads, p.weight.rows, [&](std::int64_t o) {
    std::vector<float> w(static_cast<std::size_t>(p.weight.cols));
    const auto* base = static_cast<const char*>(p.weight.data) +
                       o * p.weight.stride * static_cast<std::int64_t>(size_of(p.weight.dtype));
    for (std::int64_t k = 0; k < p.weight.cols; ++k) w[static_cast<std::size_t>(k)] = load(base, p.weight.dtype, k);
    for (std::int64_t r = 0; r < p.x.rows; ++r) {
      const float* x = p.x.row<float>(r);
      float acc[16] = {};
      std::int64_t k = 0;
      for (; k + 16 <= p.weight.cols; k += 16)
        for (int j = 0; j < 16; ++j) acc[j] += x[k + j] * w[static_cast<std::size_t>(k + j)];
      float s = 0;
      for (float a : acc) s += a;
      for (; k < p.weight.cols; ++k) s += x[k] * w[static_cast<std::size_t>(k)];
      if (p.bias) s += p.bias[o];
      float& out = p.out.row<float>(r)[o];
      out = p.accumulate ? out + s : s;
    }
  });
}
void rms_norm(const Context& c, const RmsNormParams& p) {
  parallel_for(c.threads, p.x.rows, [&](std::int64_t r) {
    const float* x = p.x.row<float>(r);
    float* o = p.out.row<float>(r);
    double s = 0;
    for (std::int64_t i = 0; i < p.x.cols; ++i) s += static_cast<double>(x[i]) * x[i];
    const float inv = 1.0F / std::sqrt(static_cast<float>(s / static_cast<double>(p.x.cols)) + p.eps);
    for (std::int64_t i = 0; i < p.x.cols; ++i) o[i] = x[i] * inv * p.weight[i];
  });
}
void swiglu(const Context& c, const MatrixView& g, const ConstMatrixView& u) {
  parallel_for(c.threads, g.rows, [&](std::int64_t r) {
    float* a = g.row<float>(r);
    const float* b = u.row<float>(r);
    for (std::int64_t i = 0; i < g.cols; ++i) a[i] = a[i] / (1.0F + std::exp(-a[i])) * b[i];
  });
}
void gelu(const Context& c, const MatrixView& x) {
  parallel_for(c.threads, x.rows, [&](std::int64_t r) {
    float* a = x.row<float>(r);
    for (std::int64_t i = 0; i < x.cols; ++i) a[i] = 0.5F * a[i] * (1.0F + std::erf(a[i] * 0.70710678F));
  });
}
void rope_store(const Context& c, const RopeParams& p) {
  parallel_for(c.threads, p.x.rows, [&](std::int64_t r) {
    const std::int64_t half = p.head_dim / 2;
    std::vector<float> t(static_cast<std::size_t>(p.head_dim));
    for (std::int64_t h = 0; h < p.heads; ++h) {
      const float* x = p.x.row<float>(r) + h * p.head_dim;
      for (std::int64_t j = 0; j < half; ++j) {
        const float a = x[j], b = x[j + half];
        const float cs = p.cos ? p.cos[r * half + j] : 1, sn = p.cos ? p.sin[r * half + j] : 0;
        t[static_cast<std::size_t>(j)] = a * cs - b * sn;
        t[static_cast<std::size_t>(j + half)] = b * cs + a * sn;
      }
      if (!p.cos) t.assign(x, x + p.head_dim);
      const std::int64_t at = h * p.head_stride + r * p.row_stride;
      for (std::int64_t j = 0; j < p.head_dim; ++j) {
        if (p.out_dtype == DType::kF32)
          static_cast<float*>(p.out)[at + j] = t[static_cast<std::size_t>(j)];
        else
          static_cast<BFloat16*>(p.out)[at + j] = to_bf16(t[static_cast<std::size_t>(j)]);
      }
    }
  });
}
void gather_rows(const Context&, const GatherParams& p) {
  for (std::int64_t i = 0; i < p.count; ++i)
    std::memcpy(static_cast<char*>(p.out) + i * p.row_bytes, static_cast<const char*>(p.in) + p.rows[i] * p.row_bytes,
                static_cast<std::size_t>(p.row_bytes));
}
void embed(const Context&, const EmbedParams& p) {
  for (std::int64_t r = 0; r < p.out.rows; ++r) {
    const auto* base = static_cast<const char*>(p.table.data) +
                       p.ids[r] * p.table.stride * static_cast<std::int64_t>(size_of(p.table.dtype));
    for (std::int64_t j = 0; j < p.out.cols; ++j) p.out.row<float>(r)[j] = load(base, p.table.dtype, j);
  }
}
}  // namespace purekv
