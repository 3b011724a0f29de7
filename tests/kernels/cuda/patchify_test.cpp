#include "kernels/patchify.h"

#include <gtest/gtest.h>

#include <array>
#include <random>

#include "support/cuda.h"

namespace purekv {
namespace {

using CudaPatchify = CudaTest;

TEST_F(CudaPatchify, EqualsTheCpu) {
  std::mt19937 random(8);
  const std::vector<float> lookup = normal_floats(3 * 256, random);
  const Buffer device_lookup = to_device(context_, lookup);
  for (const auto& [patch, merge, temporal] : {std::array<std::int64_t, 3>{14, 2, 2}, {16, 1, 1}, {5, 3, 3}})
    for (const auto& [down, across, slices] : {std::array<std::int64_t, 3>{1, 1, 1}, {3, 2, 4}, {2, 7, 3}}) {
      const std::int64_t height = down * merge * patch;
      const std::int64_t width = across * merge * patch;
      const std::int64_t rows = slices * down * across * merge * merge;
      const std::int64_t cols = 3 * temporal * patch * patch;
      std::vector<std::uint8_t> frames(static_cast<std::size_t>(slices * temporal * height * width * 3));
      for (std::uint8_t& byte : frames) byte = static_cast<std::uint8_t>(random());
      const Buffer device_frames = to_device(context_, frames);
      const Buffer out = poisoned(context_, rows * cols * 4);
      std::vector<float> want(static_cast<std::size_t>(rows * cols));
      PatchifyParams params{.frames = frames.data(),
                            .temporal = temporal,
                            .height = height,
                            .width = width,
                            .patch = patch,
                            .merge = merge,
                            .lookup = lookup.data(),
                            .out = {want.data(), DType::kF32, rows, cols, cols}};
      patchify(cpu_, params);
      params.frames = device_frames.as<std::uint8_t>();
      params.lookup = device_lookup.as<float>();
      params.out.data = out.data();
      patchify(context_, params);
      EXPECT_EQ(to_host<float>(context_, out.data(), rows * cols), want) << "patch " << patch << " slices " << slices;
    }
}

}  // namespace
}  // namespace purekv
