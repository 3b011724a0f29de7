#pragma once

#include <cstdint>

namespace purekv::cuda {

/// Float32 elements of ChooseTokenParams::work on CUDA, for either choice.
std::int64_t choose_token_work(std::int64_t sequences, std::int64_t vocab);

}  // namespace purekv::cuda
