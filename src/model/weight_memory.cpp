#include "model/weight_memory.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "base/parallel.h"
#include "device/transfer.h"
#include "kernels/quantize.h"

namespace purekv {
namespace {

/// Host bytes that are converted or padded at once.
constexpr std::int64_t kStagingBytes = 32LL << 20U;

template <class T>
void narrow_row(const void* data, std::int64_t first, std::int64_t count, std::uint16_t* out) {
  for (std::int64_t i = 0; i < count; ++i) out[i] = to_bf16(to_float(load_element<T>(data, first + i))).bits;
}

/// Row `row` of a stored matrix in bf16, filled up with zeros to `cols`.
void stage_row(const ConstMatrixView& m, std::int64_t row, std::int64_t cols, std::uint16_t* out) {
  const std::int64_t first = row * m.stride;
  switch (m.dtype) {
    case DType::kF32:
      narrow_row<float>(m.data, first, m.cols, out);
      break;
    case DType::kF16:
      narrow_row<Float16>(m.data, first, m.cols, out);
      break;
    case DType::kBF16:
      std::memcpy(out, static_cast<const std::byte*>(m.data) + 2 * first, static_cast<std::size_t>(2 * m.cols));
      break;
    case DType::kFp8:
      fail(ErrorKind::kInternal, "internal: a checkpoint's matrix is fp8");
  }
  std::fill(out + m.cols, out + cols, std::uint16_t{0});
}

}  // namespace

WeightMemory::WeightMemory(const Context& context, DType linear_dtype, std::vector<Matrix>& owned)
    : context_(context), linear_dtype_(linear_dtype), owned_(owned) {}

MatrixView WeightMemory::take(DType dtype, std::int64_t rows, std::int64_t cols) {
  return owned_.emplace_back(context_, dtype, rows, cols).view();
}

Buffer WeightMemory::to_device_floats(std::span<const float> host) const {
  Buffer buffer(context_, static_cast<std::int64_t>(host.size_bytes()));
  upload(context_, buffer.data(), host.data(), buffer.bytes());
  return buffer;
}

/// `out` is bf16 of the same rows, and as many columns or more.
void WeightMemory::fill(const ConstMatrixView& host, const MatrixView& out) const {
  const std::int64_t row_bytes = 2 * out.cols;
  if (host.dtype == DType::kBF16 && host.stride == host.cols && host.cols == out.cols)
    return upload(context_, out.data, host.data, host.rows * row_bytes);
  const std::int64_t rows_at_once = std::max<std::int64_t>(1, kStagingBytes / row_bytes);
  for (std::int64_t begin = 0; begin < host.rows; begin += rows_at_once) {
    const std::int64_t count = std::min(rows_at_once, host.rows - begin);
    staging_.resize(static_cast<std::size_t>(count * out.cols));
    parallel_for(context_.threads, count,
                 [&](std::int64_t i) { stage_row(host, begin + i, out.cols, staging_.data() + i * out.cols); });
    upload(context_, out.slice(begin, count).data, staging_.data(), count * row_bytes);
  }
}

ConstMatrixView WeightMemory::table(const ConstMatrixView& host) {
  if (in_place()) return host;
  const MatrixView out = take(DType::kBF16, host.rows, host.cols);
  fill(host, out);
  return out;
}

LinearWeight WeightMemory::linear(std::span<const ConstMatrixView> parts, std::span<const float> bias,
                                  std::int64_t rows, std::int64_t cols) {
  LinearWeight w;
  if (in_place()) {
    PUREKV_ASSERT(parts.size() == 1 && rows <= parts[0].rows && cols <= parts[0].cols);
    w.weight = parts[0];
    w.bias = to_device_floats(bias);
    return w;
  }
  std::int64_t used = 0;
  for (const ConstMatrixView& part : parts) used += part.rows;
  rows = std::max(rows, used);
  cols = std::max(cols, parts[0].cols);
  const bool fp8 = linear_dtype_ == DType::kFp8;
  // fp8: the bf16 matrix lives only until it is quantised.
  Matrix passing;
  if (fp8) passing = Matrix(context_, DType::kBF16, rows, cols);
  const MatrixView whole = fp8 ? passing.view() : take(DType::kBF16, rows, cols);
  std::int64_t at = 0;
  for (const ConstMatrixView& part : parts) {
    fill(part, whole.slice(at, part.rows));
    at += part.rows;
  }
  fill_zero(context_, whole.slice(at, rows - at).data, (rows - at) * 2 * cols);
  w.weight = whole;
  if (fp8) {
    const MatrixView out = take(DType::kFp8, rows, cols);
    w.scales = Buffer(context_, rows * static_cast<std::int64_t>(sizeof(float)));
    quantize_rows(context_, {.in = whole, .out = out, .scales = w.scales.as<float>()});
    w.weight = out;
  }
  if (bias.empty()) return w;
  std::vector<float> wide(bias.begin(), bias.end());
  wide.resize(static_cast<std::size_t>(rows), 0.0F);
  std::vector<std::uint16_t> narrow;
  narrow.reserve(wide.size());
  for (const float x : wide) narrow.push_back(to_bf16(x).bits);
  w.bias = to_device_floats(wide);
  w.bias16 = to_device(context_, narrow);
  return w;
}

}  // namespace purekv
