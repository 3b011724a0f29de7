#include "engine/prompt.h"

#include <gtest/gtest.h>

#include "purekv/error.h"

namespace purekv {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.text.vocab = 100;
  config.text.context = 200;
  config.ids = {.image_pad = 90, .video_pad = 91, .vision_start = 92, .vision_end = 93};
  return config;
}

ClipInfo clip(MediaKind kind, int t, int h, int w) {
  ClipInfo info;
  info.kind = kind;
  info.sample_fps = kind == MediaKind::kImage ? 0 : 2.0;
  info.grid_t = t;
  info.grid_h = h;
  info.grid_w = w;
  return info;
}

TEST(Prompt, PadsGrowAndRowsKnowTheirFrame) {
  PromptParts parts;
  parts.media = {clip(MediaKind::kVideo, 2, 4, 6), clip(MediaKind::kImage, 1, 2, 2)};
  parts.ids = {1, 92, 91, 93, 5, 90, 6};
  const Prompt prompt = make_prompt(small_config(), nullptr, parts);
  ASSERT_EQ(prompt.ids.size(), 2U + 12U + 2U + 1U + 1U);
  EXPECT_EQ(prompt.media_start, (std::vector<std::int32_t>{2, 16}));
  EXPECT_EQ(prompt.table.prefix, 2);
  EXPECT_EQ(prompt.table.question_start, 17);
  EXPECT_EQ(prompt.table.visual_rows(), 13);
  EXPECT_EQ(prompt.table.places[8].frame, 1);
  EXPECT_EQ(prompt.table.places[9].cell, 1);
  EXPECT_EQ(prompt.table.previous_cell(9), 3);
  EXPECT_EQ(prompt.table.previous_cell(16), -1);
  EXPECT_TRUE(prompt.table.is_text(14));
  EXPECT_EQ(prompt.positions.rows(), 18);
}

TEST(Prompt, WhatDoesNotFitIsAnInputError) {
  PromptParts parts;
  const auto refused = [&parts] {
    try {
      make_prompt(small_config(), nullptr, parts);
      return false;
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kInput;
    }
  };
  EXPECT_TRUE(refused()) << "neither tokenizer nor ids";
  parts.ids = {1, 100};
  EXPECT_TRUE(refused()) << "id past the vocabulary";
  parts.ids = {1, 91};
  EXPECT_TRUE(refused()) << "a pad without a medium";
  parts.media = {clip(MediaKind::kVideo, 2, 2, 2)};
  parts.ids = {1, 2};
  EXPECT_TRUE(refused()) << "a medium without a pad";
  parts.media = {clip(MediaKind::kVideo, 50, 4, 4)};
  parts.ids = {1, 91};
  EXPECT_TRUE(refused()) << "201 rows in a context of 200";
  parts.ids = {91};
  EXPECT_FALSE(refused()) << "200 rows fit";
}

TEST(Prompt, OutlineIsTheTablePastTheContextToo) {
  PromptParts parts;
  parts.media = {clip(MediaKind::kVideo, 2, 4, 6), clip(MediaKind::kImage, 1, 2, 2)};
  parts.ids = {1, 92, 91, 93, 5, 90, 6};
  const FrameTable table = make_prompt(small_config(), nullptr, parts).table;
  const FrameTable outline = outline_prompt(small_config(), nullptr, parts);
  EXPECT_EQ(outline.rows, table.rows);
  EXPECT_EQ(outline.prefix, table.prefix);
  EXPECT_EQ(outline.question_start, table.question_start);
  ASSERT_EQ(outline.frames.size(), table.frames.size());
  for (std::size_t i = 0; i < table.frames.size(); ++i) {
    EXPECT_EQ(outline.frames[i].start, table.frames[i].start);
    EXPECT_EQ(outline.frames[i].rows(), table.frames[i].rows());
  }
  parts.media = {clip(MediaKind::kVideo, 50, 4, 4)};
  parts.ids = {1, 91};
  EXPECT_EQ(outline_prompt(small_config(), nullptr, parts).rows, 201);
  parts.media = {clip(MediaKind::kVideo, 1 << 20, 128, 128)};
  EXPECT_THROW(outline_prompt(small_config(), nullptr, parts), Error) << "2^32 rows";
  parts.media.clear();
  parts.ids = {1, 2, 3};
  EXPECT_EQ(outline_prompt(small_config(), nullptr, parts).question_start, 3);
}

}  // namespace
}  // namespace purekv
