#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "base/byte_counter.h"
#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// Owns device memory, 64-byte aligned (256 on CUDA), not initialised. Counts into `counter` while it lives.
/// Throws Error(kResource) with the bytes asked where memory is short.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Context& context, std::int64_t bytes, ByteCounter* counter = nullptr);
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    Buffer(std::move(other)).swap(*this);
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer();

  [[nodiscard]] void* data() const { return data_; }
  template <class T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }
  [[nodiscard]] std::int64_t bytes() const { return bytes_; }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(counter_, other.counter_);
    std::swap(cuda_, other.cuda_);
  }

 private:
  void* data_ = nullptr;
  std::int64_t bytes_ = 0;
  ByteCounter* counter_ = nullptr;
  CudaDevice* cuda_ = nullptr;  ///< null: host memory
};

/// A matrix that owns its memory.
class Matrix {
 public:
  Matrix() = default;
  Matrix(const Context& context, DType dtype, std::int64_t rows, std::int64_t cols)
      : buffer_(context, rows * cols * static_cast<std::int64_t>(size_of(dtype))),
        view_{buffer_.data(), dtype, rows, cols, cols} {}
  [[nodiscard]] const MatrixView& view() const { return view_; }
  [[nodiscard]] MatrixView slice(std::int64_t begin, std::int64_t count) const { return view_.slice(begin, count); }

 private:
  Buffer buffer_;
  MatrixView view_;
};

}  // namespace purekv
