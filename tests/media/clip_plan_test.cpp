#include "media/clip_plan.h"

#include <gtest/gtest.h>

#include "purekv/error.h"

namespace purekv {
namespace {

FrameSize plan_video(FrameSize source, std::int64_t frames, const MediaOptions& options = {}) {
  return smart_resize("clip", source, 28, video_limits("clip", options, {}, frames));
}

FrameSize plan_image(FrameSize source, const MediaOptions& options = {}) {
  return smart_resize("image", source, 28, image_limits("image", options, {}));
}

TEST(ClipPlan, GivesTheSizesOfTheSpecification) {
  EXPECT_EQ(plan_video({240, 320}, 8), (FrameSize{280, 392}));
  EXPECT_EQ(plan_video({360, 480}, 64), (FrameSize{364, 476}));
  EXPECT_EQ(plan_video({360, 640}, 64), (FrameSize{364, 644}));
  EXPECT_EQ(plan_video({480, 640}, 32), (FrameSize{476, 644}));
  EXPECT_EQ(plan_video({480, 854}, 32), (FrameSize{476, 840}));
  EXPECT_EQ(plan_video({720, 1280}, 64), (FrameSize{560, 1008}));
  EXPECT_EQ(plan_video({480, 640}, 768), (FrameSize{420, 560}));
  EXPECT_EQ(plan_image({1, 1}), (FrameSize{56, 56}));
  EXPECT_EQ(plan_image({42, 70}), (FrameSize{56, 56}));  // 1.5 and 2.5 cells: halves go to the even side
}

TEST(ClipPlan, SharesTheTotalAmongFramesDownToAFloor) {
  MediaOptions options;
  options.total_pixels = 24'576LL * 784;
  // 134 cells a pair, 1.05 times the least, win over the share above 366 frames.
  for (const std::int64_t frames : {368, 512, 768})
    EXPECT_EQ(video_limits("clip", options, {}, frames).high, 105'369.0) << frames;
  EXPECT_EQ(video_limits("clip", options, {}, 256).high, 150'528.0);
  EXPECT_EQ(video_limits("clip", options, {}, 2).high, 602'112.0);
  options.max_pixels = 120'000;
  EXPECT_EQ(video_limits("clip", options, {}, 2).high, 120'000.0);
  options.max_pixels = 1'000'000;
  EXPECT_EQ(video_limits("clip", options, {}, 2).high, 602'112.0);
}

TEST(ClipPlan, TakesFlagsBeforeTheModelsLimits) {
  PreprocessConfig preprocess;
  preprocess.image_min_pixels = preprocess.video_min_pixels = 12'544;
  preprocess.image_max_pixels = preprocess.video_max_pixels = 28'224;
  EXPECT_EQ(video_limits("clip", {}, preprocess, 4).high, 28'224.0);
  EXPECT_EQ(image_limits("image", {}, preprocess).low, 12'544);
  MediaOptions options;
  options.min_pixels = 50'000;
  EXPECT_THROW(video_limits("clip", options, preprocess, 4), Error);
  EXPECT_THROW(image_limits("image", options, preprocess), Error);
  options.max_pixels = 60'000;
  EXPECT_EQ(image_limits("image", options, preprocess).high, 60'000.0);
}

TEST(ClipPlan, RefusesSizesThatCannotBe) {
  EXPECT_THROW(plan_image({1, 201}), Error);
  EXPECT_NO_THROW(plan_image({1, 200}));
  EXPECT_THROW(plan_video({8'040, 40}, 4), Error);
  MediaOptions options;
  options.min_pixels = options.max_pixels = 1LL << 40;
  EXPECT_THROW(plan_image({100, 100}, options), Error);
  EXPECT_THROW(check_source_size("image", 0, 5, kMostSide), Error);
  EXPECT_THROW(check_source_size("image", 5, -1, kMostSide), Error);
  EXPECT_THROW(check_source_size("image", 16'385, 1, kMostSide), Error);
  EXPECT_THROW(check_source_size("image", 4'101, 4'097, kMostSide), Error);
  EXPECT_NO_THROW(check_source_size("image", 16'384, 1'025, kMostSide));
  EXPECT_NO_THROW(check_source_size("video", 4'096, 4'096, kMostVideoSide));
  EXPECT_THROW(check_source_size("video", 4'097, 16, kMostVideoSide), Error);
}

TEST(ClipPlan, FillsTheGrid) {
  ClipInfo clip;
  clip.kind = MediaKind::kVideo;
  clip.frame_indices = {0, 1, 2, 3};
  clip.source_height = 360;
  clip.source_width = 640;
  plan_sizes(clip, {}, {});
  EXPECT_EQ(clip.grid_t, 2);
  EXPECT_EQ(clip.grid_h, 26);
  EXPECT_EQ(clip.grid_w, 46);
  clip.kind = MediaKind::kImage;
  clip.frame_indices = {0};
  plan_sizes(clip, {}, {});
  EXPECT_EQ(clip.grid_t, 1);
}

}  // namespace
}  // namespace purekv
