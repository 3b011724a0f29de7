#include "media/sampling.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <utility>

#include "media/golden_input.h"
#include "purekv/error.h"

namespace purekv {
namespace {

std::vector<std::int64_t> indices_of(std::int64_t frames, double rate, const MediaOptions& options = {}) {
  return sample_video({"clip", frames, rate}, options, 2).indices;
}

bool refused(std::int64_t frames, double rate, const MediaOptions& options = {}) {
  try {
    indices_of(frames, rate, options);
    return false;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    return true;
  }
}

MediaOptions asking(std::int64_t frames) {
  MediaOptions options;
  options.frames = frames;
  return options;
}

MediaOptions between(double start, double end) {
  MediaOptions options;
  options.start = start;
  options.end = end;
  return options;
}

TEST(Sampling, FollowsTheReferenceOnTwentyThousandClips) {
  constexpr std::array<std::pair<int, int>, 12> kRates = {{{25, 1},
                                                           {30, 1},
                                                           {30000, 1001},
                                                           {24000, 1001},
                                                           {179, 6},
                                                           {25, 2},
                                                           {60, 1},
                                                           {1, 1},
                                                           {1, 5},
                                                           {240, 1},
                                                           {15, 1},
                                                           {50, 1}}};
  constexpr int kCases = 20'000;
  constexpr int kPerHash = 100;
  GoldenRandom random(1);
  std::uint64_t state = 0xCBF29CE484222325ULL;
  const auto take = [&state](std::int64_t value) {
    state = (state ^ static_cast<std::uint64_t>(value)) * 0x100000001B3ULL;
  };
  std::string hashes;
  for (int i = 0; i < kCases; ++i) {
    const std::int64_t total = 2 + random.below(4999);
    const auto [numerator, denominator] = kRates[static_cast<std::size_t>(random.below(kRates.size()))];
    const double rate = static_cast<double>(numerator) / denominator;
    MediaOptions options;
    const std::int64_t kind = random.below(4);
    if (kind == 1) options.fps = static_cast<double>(1 + random.below(400)) / 40;
    if (kind == 2) options.frames = 1 + random.below(std::min<std::int64_t>(total, 900) + 1);
    const double seconds = static_cast<double>(total) / rate;
    if (random.below(3) == 0)
      options.start = static_cast<double>(random.below(static_cast<std::int64_t>(seconds * 50) + 1)) / 100;
    if (random.below(3) == 0)
      options.end = static_cast<double>(random.below(static_cast<std::int64_t>(seconds * 110) + 1)) / 100;
    try {
      const auto indices = indices_of(total, rate, options);
      take(static_cast<std::int64_t>(indices.size()));
      for (const std::int64_t index : indices) take(index);
    } catch (const Error&) {
      take(-1);
    }
    if (i % kPerHash != kPerHash - 1) continue;
    std::array<char, 18> line{};
    std::snprintf(line.data(), line.size(), "%016llx\n", static_cast<unsigned long long>(state));
    hashes += line.data();
    const std::string golden = golden_bytes("sampling.txt");
    ASSERT_EQ(hashes, golden.substr(0, hashes.size())) << "one of the clips up to " << i;
  }
}

TEST(Sampling, GivesTheVectorsOfTheSpecification) {
  const Sampling ten = sample_video({"clip", 250, 25}, {}, 2);
  EXPECT_EQ(ten.indices, (std::vector<std::int64_t>{0,   13,  26,  39,  52,  66,  79,  92,  105, 118,
                                                    131, 144, 157, 170, 183, 197, 210, 223, 236, 249}));
  EXPECT_EQ(ten.sample_fps, 1.0 * 20 / 250 * 25);
  EXPECT_EQ(indices_of(25, 25), (std::vector<std::int64_t>{0, 8, 16, 24}));
  EXPECT_EQ(sample_video({"clip", 25, 25}, {}, 2).sample_fps, 4.0);
  EXPECT_EQ(indices_of(300, 29.97).size(), 20U);
  const Sampling hour = sample_video({"clip", 90'000, 25}, {}, 2);
  EXPECT_EQ(hour.indices.size(), 768U);
  EXPECT_EQ(hour.indices.back(), 89'999);
}

TEST(Sampling, RoundsAskedFramesToEvenAndDoesNotCapThem) {
  EXPECT_EQ(indices_of(100, 25, asking(5)).size(), 4U);
  EXPECT_EQ(indices_of(100, 25, asking(7)).size(), 8U);
  EXPECT_EQ(indices_of(100, 25, asking(100)).size(), 100U);
  EXPECT_EQ(indices_of(2000, 25, asking(1000)).size(), 1000U);
  EXPECT_TRUE(refused(100, 25, asking(1)));
  EXPECT_TRUE(refused(100, 25, asking(102)));
  EXPECT_TRUE(refused(99, 25, asking(99)));
  EXPECT_TRUE(refused(100, 25, asking(std::numeric_limits<std::int64_t>::max())));
}

TEST(Sampling, TakesSecondsThroughTheRate) {
  MediaOptions options = between(1.0, 2.0);
  options.fps = 25;
  const auto indices = indices_of(250, 25, options);
  EXPECT_EQ(indices.front(), 25);
  EXPECT_EQ(indices.back(), 50);
  EXPECT_EQ(indices_of(250, 25, between(9.5, 1e300)).back(), 249);
  EXPECT_TRUE(refused(250, 25, between(9.98, 20)));
  EXPECT_TRUE(refused(250, 25, between(11, 12)));
  EXPECT_TRUE(refused(250, 25, between(1e300, 2e300)));
  EXPECT_TRUE(refused(250, 25, between(3, 3)));
}

TEST(Sampling, RefusesWhatIsNoVideo) {
  for (const double rate : {0.0, -1.0, 1e-4, 1e7, std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_TRUE(refused(100, rate)) << rate;
  EXPECT_TRUE(refused(0, 25));
  EXPECT_TRUE(refused(1, 25));
  EXPECT_EQ(indices_of(2, 25), (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(indices_of(3, 25), (std::vector<std::int64_t>{0, 2}));
  MediaOptions options;
  for (const double fps : {0.0, -2.0, std::nan("")}) {
    options.fps = fps;
    EXPECT_TRUE(refused(100, 25, options)) << fps;
  }
}

TEST(Sampling, TakesAllFramesOfALooseClip) {
  MediaOptions options;
  EXPECT_EQ(sample_all("clip", 1, options, 2).indices, (std::vector<std::int64_t>{0, 0}));
  EXPECT_EQ(sample_all("clip", 2, options, 2).indices, (std::vector<std::int64_t>{0, 1}));
  EXPECT_EQ(sample_all("clip", 3, options, 2).indices, (std::vector<std::int64_t>{0, 1, 2, 2}));
  options.frame_rate = 0.5;
  EXPECT_EQ(sample_all("clip", 3, options, 2).sample_fps, 0.5);
  EXPECT_THROW(sample_all("clip", 0, options, 2), Error);
  EXPECT_THROW(sample_all("clip", kMostFrames + 1, options, 2), Error);
  options.frame_rate = 0;
  EXPECT_THROW(sample_all("clip", 3, options, 2), Error);
}

}  // namespace
}  // namespace purekv
