#include "model/weights.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "model/scratch_model.h"

namespace purekv {
namespace {

using nlohmann::json;
using testing::flat_config;
using testing::input_error;
using testing::ScratchDirectory;

using Shapes = std::vector<std::pair<std::string, std::vector<std::int64_t>>>;

/// The tensors of flat_config(), as docs/model.md lists them.
Shapes tensor_shapes() {
  Shapes shapes = {{"model.embed_tokens.weight", {320, 64}}, {"model.norm.weight", {64}}};
  for (const std::string layer : {"model.layers.0.", "model.layers.1."})
    for (const auto& [name, shape] : Shapes{{"input_layernorm.weight", {64}},
                                            {"post_attention_layernorm.weight", {64}},
                                            {"self_attn.q_proj.weight", {64, 64}},
                                            {"self_attn.q_proj.bias", {64}},
                                            {"self_attn.k_proj.weight", {32, 64}},
                                            {"self_attn.k_proj.bias", {32}},
                                            {"self_attn.v_proj.weight", {32, 64}},
                                            {"self_attn.v_proj.bias", {32}},
                                            {"self_attn.o_proj.weight", {64, 64}},
                                            {"mlp.gate_proj.weight", {160, 64}},
                                            {"mlp.up_proj.weight", {160, 64}},
                                            {"mlp.down_proj.weight", {64, 160}}})
      shapes.emplace_back(layer + name, shape);
  shapes.insert(shapes.end(), {{"visual.patch_embed.proj.weight", {32, 3, 2, 14, 14}},
                               {"visual.merger.ln_q.weight", {32}},
                               {"visual.merger.mlp.0.weight", {128, 128}},
                               {"visual.merger.mlp.0.bias", {128}},
                               {"visual.merger.mlp.2.weight", {64, 128}},
                               {"visual.merger.mlp.2.bias", {64}}});
  for (const std::string block : {"visual.blocks.0.", "visual.blocks.1."})
    for (const auto& [name, shape] : Shapes{{"norm1.weight", {32}},
                                            {"norm2.weight", {32}},
                                            {"attn.qkv.weight", {96, 32}},
                                            {"attn.qkv.bias", {96}},
                                            {"attn.proj.weight", {32, 32}},
                                            {"attn.proj.bias", {32}},
                                            {"mlp.gate_proj.weight", {92, 32}},
                                            {"mlp.gate_proj.bias", {92}},
                                            {"mlp.up_proj.weight", {92, 32}},
                                            {"mlp.up_proj.bias", {92}},
                                            {"mlp.down_proj.weight", {32, 92}},
                                            {"mlp.down_proj.bias", {32}}})
      shapes.emplace_back(block + name, shape);
  return shapes;
}

std::int64_t count(const std::vector<std::int64_t>& shape) {
  std::int64_t n = 1;
  for (const std::int64_t dim : shape) n *= dim;
  return n;
}

/// Writes every tensor as BF16; element i of a tensor is (i % 128).
void write_model(const ScratchDirectory& directory, const Shapes& shapes) {
  json header;
  std::string data;
  for (const auto& [name, shape] : shapes) {
    const std::size_t begin = data.size();
    for (std::int64_t i = 0; i < count(shape); ++i) {
      const BFloat16 value = to_bf16(static_cast<float>(i % 128));
      data.append(reinterpret_cast<const char*>(&value), sizeof value);
    }
    header[name] = {{"dtype", "BF16"}, {"shape", shape}, {"data_offsets", {begin, data.size()}}};
  }
  directory.write("model.safetensors", testing::safetensors(header.dump(), data));
  directory.write("config.json", flat_config().dump());
}

TEST(Weights, BindEveryTensor) {
  const ScratchDirectory directory;
  write_model(directory, tensor_shapes());
  const ModelConfig config = load_config(directory.path());
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  const LanguageWeights language = bind_language(Context{}, checkpoint, config.text);
  ASSERT_EQ(language.layers.size(), 2U);
  EXPECT_EQ(language.head.data, language.embed.data);
  EXPECT_EQ(language.norm.as<float>()[63], 63.0F);
  EXPECT_EQ(language.layers[1].k.weight.rows, 32);
  EXPECT_EQ(language.layers[1].k.bias.as<float>()[31], 31.0F);
  EXPECT_EQ(language.layers[0].o.operand().bias, nullptr);
  EXPECT_EQ(language.layers[0].down.weight.cols, 160);
  const VisionWeights vision = bind_vision(Context{}, checkpoint, config.vision);
  ASSERT_EQ(vision.blocks.size(), 2U);
  EXPECT_EQ(vision.patch_embed.cols, 1176);
  EXPECT_EQ(vision.patch_embed.dtype, DType::kBF16);
  EXPECT_EQ(vision.blocks[1].qkv.weight.rows, 96);
  EXPECT_EQ(vision.merger_out.weight.rows, 64);
}

TEST(Weights, EveryTensorIsNeededInItsShape) {
  const Shapes whole = tensor_shapes();
  const ScratchDirectory directory;
  const auto bind = [&] {
    const ModelConfig config = load_config(directory.path());
    const Checkpoint checkpoint = Checkpoint::open(directory.path());
    bind_language(Context{}, checkpoint, config.text);
    bind_vision(Context{}, checkpoint, config.vision);
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    Shapes changed = whole;
    ++changed[i].second.back();
    write_model(directory, changed);
    EXPECT_NE(input_error(bind).find("'" + whole[i].first + "' is ["), std::string::npos);
    changed = whole;
    changed.erase(changed.begin() + static_cast<std::ptrdiff_t>(i));
    write_model(directory, changed);
    EXPECT_NE(input_error(bind).find("'" + whole[i].first + "' is missing"), std::string::npos);
  }
}

TEST(Weights, UntiedHeadIsItsOwnTensor) {
  const ScratchDirectory directory;
  Shapes shapes = tensor_shapes();
  write_model(directory, shapes);
  ModelConfig config = load_config(directory.path());
  config.text.tied = false;
  EXPECT_NE(
      input_error([&] { bind_language(Context{}, Checkpoint::open(directory.path()), config.text); }).find("lm_head"),
      std::string::npos);
  shapes.emplace_back("lm_head.weight", std::vector<std::int64_t>{320, 64});
  write_model(directory, shapes);
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  const LanguageWeights language = bind_language(Context{}, checkpoint, config.text);
  EXPECT_NE(language.head.data, language.embed.data);
}

float at(const ConstMatrixView& m, std::int64_t row, std::int64_t col) {
  if (m.dtype == DType::kF32) return m.row<float>(row)[col];
  return m.dtype == DType::kBF16 ? to_float(m.row<BFloat16>(row)[col]) : to_float(m.row<Float16>(row)[col]);
}

TEST(RandomModel, HasTheShapesOfTheConfigAndSmallValues) {
  const ScratchDirectory directory;
  directory.write("config.json", flat_config().dump());
  const ModelConfig config = load_config(directory.path());
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    const LanguageWeights language = random_language(Context{}, config.text, dtype);
    const VisionWeights vision = random_vision(Context{}, config.vision, dtype);
    ASSERT_EQ(language.layers.size(), 2U);
    EXPECT_EQ(language.layers[1].down.weight.cols, 160);
    EXPECT_EQ(vision.merger_in.weight.rows, 128);
    double sum = 0, squares = 0;
    const ConstMatrixView& m = language.embed;
    for (std::int64_t r = 0; r < m.rows; ++r)
      for (std::int64_t c = 0; c < m.cols; ++c) {
        const double x = at(m, r, c);
        ASSERT_LT(std::abs(x), 0.04);
        sum += x;
        squares += x * x;
      }
    const double n = static_cast<double>(m.rows * m.cols);
    EXPECT_NEAR(sum / n, 0.0, 1e-3);
    EXPECT_NEAR(std::sqrt(squares / n), 0.0238, 1e-3);
  }
}

TEST(RandomModel, CountsItsBytes) {
  const ScratchDirectory directory;
  directory.write("config.json", flat_config().dump());
  const ModelConfig config = load_config(directory.path());
  const LanguageWeights wide = random_language(Context{}, config.text, DType::kF32);
  EXPECT_EQ(wide.bytes, bytes_of(wide.owned));
  EXPECT_EQ(random_language(Context{}, config.text, DType::kBF16).bytes * 2, wide.bytes);
}

TEST(RandomModel, IsTheSameEveryTime) {
  const ScratchDirectory directory;
  directory.write("config.json", flat_config().dump());
  const ModelConfig config = load_config(directory.path());
  const LanguageWeights a = random_language(Context{}, config.text, DType::kBF16);
  const LanguageWeights b = random_language(Context{.threads = 3}, config.text, DType::kBF16);
  for (std::size_t i = 0; i < a.owned.size(); ++i) {
    const MatrixView& m = a.owned[i].view();
    EXPECT_EQ(std::memcmp(m.data, b.owned[i].view().data, static_cast<std::size_t>(m.rows * m.cols * 2)), 0);
  }
  EXPECT_NE(std::memcmp(a.owned[1].view().data, a.owned[2].view().data, 64), 0);
}

}  // namespace
}  // namespace purekv
