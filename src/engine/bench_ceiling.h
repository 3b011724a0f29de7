#pragma once

#include <cstdint>
#include <vector>

#include "device/buffer.h"
#include "device/context.h"
#include "device/timer.h"

namespace purekv {

/// What this machine can do at most, measured in turns with the thing that is judged by it: one large matrix product in
/// the types of the run, and one pass over memory past the caches: a read on the CPU, a copy on a GPU (bytes read and
/// written).
class Ceiling {
 public:
  Ceiling(const Context& context, DType weights);
  /// About what a ceiling takes.
  static std::int64_t bytes(const Context& context);
  /// One measurement of both; call it between the runs.
  void measure();
  [[nodiscard]] double gemm_tflops() const;  ///< median
  [[nodiscard]] double copy_gbps() const;    ///< median

 private:
  [[nodiscard]] double read_seconds();
  [[nodiscard]] double copy_seconds();

  Context context_;
  std::int64_t rows_, wide_;  ///< of the product; its weight is wide x wide
  Matrix x_, weight_, out_;
  Buffer scales_, stream_;
  Timer timer_;
  std::vector<double> gemm_, copy_;
};

double median(std::vector<double> values);

}  // namespace purekv
