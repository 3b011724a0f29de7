#pragma once

#include <cstdint>

#include "base/matrix.h"
#include "device/context.h"

namespace purekv {

/// Fills a matrix whose rows follow each other with random signs and fractions under one exponent: every value lies in
/// +-[magnitude, 2 magnitude), magnitude a power of two. The same bits on every backend and any number of threads;
/// random values, never zeros, so that no unit takes a short cut (benchmarks, tests of memory).
void random_bits(const Context& context, const MatrixView& out, float magnitude, std::uint64_t seed);

}  // namespace purekv
