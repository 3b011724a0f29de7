#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace purekv {

/// A row-major matrix that somebody else owns, on the device of the context it travels with.
struct MatrixView {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0, cols = 0;
  std::int64_t stride = 0;  ///< elements from row to row

  template <class T>
  [[nodiscard]] T* row(std::int64_t i) const {
    return static_cast<T*>(data) + i * stride;
  }
  /// Rows [begin, begin + count).
  [[nodiscard]] MatrixView slice(std::int64_t begin, std::int64_t count) const {
    auto* base = static_cast<std::byte*>(data) + begin * stride * static_cast<std::int64_t>(size_of(dtype));
    return {base, dtype, count, cols, stride};
  }
  /// Columns [begin, begin + count).
  [[nodiscard]] MatrixView columns(std::int64_t begin, std::int64_t count) const {
    auto* base = static_cast<std::byte*>(data) + begin * static_cast<std::int64_t>(size_of(dtype));
    return {base, dtype, rows, count, stride};
  }
};

/// The same, read only.
struct ConstMatrixView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::int64_t rows = 0, cols = 0;
  std::int64_t stride = 0;

  ConstMatrixView() = default;
  ConstMatrixView(const void* data_, DType dtype_, std::int64_t rows_, std::int64_t cols_, std::int64_t stride_)
      : data(data_), dtype(dtype_), rows(rows_), cols(cols_), stride(stride_) {}
  // NOLINTNEXTLINE(google-explicit-constructor): a writable view reads too
  ConstMatrixView(const MatrixView& m) : ConstMatrixView(m.data, m.dtype, m.rows, m.cols, m.stride) {}

  template <class T>
  [[nodiscard]] const T* row(std::int64_t i) const {
    return static_cast<const T*>(data) + i * stride;
  }
  [[nodiscard]] ConstMatrixView slice(std::int64_t begin, std::int64_t count) const {
    const auto* base = static_cast<const std::byte*>(data) + begin * stride * static_cast<std::int64_t>(size_of(dtype));
    return {base, dtype, count, cols, stride};
  }
};

}  // namespace purekv
