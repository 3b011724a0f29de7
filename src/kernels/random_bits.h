#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// Fills a matrix whose rows follow each other with random signs and fractions under one exponent: every value lies in
/// +-[magnitude, 2 magnitude), magnitude a power of two. The same bits on every backend and any number of threads;
/// random values, never zeros, so that no unit takes a short cut (benchmarks, tests of memory).
void random_bits(const Context& context, const MatrixView& out, float magnitude, std::uint64_t seed);

/// Normal values of deviation 1, float32 or bf16: what benchmarks of attention run on, because a power-bound chip is
/// faster on tamer bits. Backends agree but for the rounding of their logarithms.
void random_normal(const Context& context, const MatrixView& out, std::uint64_t seed);

}  // namespace purekv
