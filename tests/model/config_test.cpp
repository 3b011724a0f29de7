#include "model/config.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "model/scratch_model.h"

namespace purekv {
namespace {

using nlohmann::json;
using testing::flat_config;
using testing::input_error;
using testing::ScratchDirectory;

ModelConfig load(const json& config, const ScratchDirectory& directory = {}) {
  directory.write("config.json", config.dump());
  return load_config(directory.path());
}

/// The text fields moved into text_config, with the rope as transformers 5 writes it.
json nested_config() {
  json config = flat_config();
  json text = {{"model_type", "qwen2_5_vl_text"}};
  for (const char* key : {"hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size", "num_attention_heads",
                          "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps"}) {
    text[key] = config[key];
    config.erase(key);
  }
  text["rope_parameters"] = {{"rope_type", "default"}, {"mrope_section", {2, 3, 3}}, {"rope_theta", 5e5}};
  text["layer_types"] = {"full_attention", "full_attention"};
  config.erase("rope_scaling");
  config.erase("rope_theta");
  config["text_config"] = text;
  return config;
}

TEST(Config, ReadsTheFlatForm) {
  const ModelConfig config = load(flat_config());
  EXPECT_EQ(config.text.hidden, 64);
  EXPECT_EQ(config.text.layers, 2);
  EXPECT_EQ(config.text.heads.heads, 4);
  EXPECT_EQ(config.text.heads.kv_heads, 2);
  EXPECT_EQ(config.text.heads.head_dim, 16);
  EXPECT_EQ(config.text.vocab, 320);
  EXPECT_EQ(config.text.context, 4096);
  EXPECT_EQ(config.text.mrope_section, (std::array<std::int64_t, 3>{2, 3, 3}));
  EXPECT_TRUE(config.text.tied);
  EXPECT_TRUE(config.has_vision);
  EXPECT_EQ(config.vision.out_hidden, 64);
  EXPECT_EQ(config.vision.full_layers, (std::vector<std::int64_t>{1}));
  EXPECT_EQ(config.ids.video_pad, 303);
  EXPECT_EQ(config.generation.eos, (std::vector<std::int32_t>{151645, 151643}));
}

TEST(Config, ReadsTheNestedForm) {
  const ModelConfig config = load(nested_config());
  EXPECT_EQ(config.text.hidden, 64);
  EXPECT_DOUBLE_EQ(config.text.rope_theta, 5e5);
  EXPECT_EQ(config.text.mrope_section[2], 3);
  EXPECT_TRUE(config.text.tied);
}

TEST(Config, EitherPlaceTies) {
  json config = nested_config();
  config["tie_word_embeddings"] = false;
  EXPECT_FALSE(load(config).text.tied);
  config["text_config"]["tie_word_embeddings"] = true;
  EXPECT_TRUE(load(config).text.tied);
}

TEST(Config, SparseVisionConfigTakesTheFamilysSizes) {
  json config = flat_config();
  config["vision_config"] = {{"out_hidden_size", 64}};
  const VisionConfig vision = load(config).vision;
  EXPECT_EQ(vision.depth, 32);
  EXPECT_EQ(vision.hidden, 1280);
  EXPECT_EQ(vision.window, 112);
  EXPECT_DOUBLE_EQ(vision.tokens_per_second, 2.0);
  EXPECT_EQ(vision.full_layers, (std::vector<std::int64_t>{7, 15, 23, 31}));
}

TEST(Config, TextOnlyModelNeedsNoVision) {
  json config = flat_config();
  config.erase("vision_config");
  config.erase("rope_scaling");
  config["model_type"] = "qwen2";
  const ModelConfig loaded = load(config);
  EXPECT_FALSE(loaded.has_vision);
  EXPECT_EQ(loaded.text.mrope_section, (std::array<std::int64_t, 3>{8, 0, 0}));
}

struct BadField {
  const char* pointer;
  const char* value;  ///< null: the field is taken away
};

class RefusedConfig : public ::testing::TestWithParam<BadField> {};

TEST_P(RefusedConfig, NamesFileAndField) {
  json config = flat_config();
  const json::json_pointer pointer(GetParam().pointer);
  if (GetParam().value == nullptr)
    config[pointer.parent_pointer()].erase(pointer.back());
  else
    config[pointer] = json::parse(GetParam().value);
  const std::string line = input_error([&] { load(config); });
  EXPECT_NE(line.find("/config.json: "), std::string::npos) << line;
  EXPECT_NE(line.find(pointer.back()), std::string::npos) << line;
}

INSTANTIATE_TEST_SUITE_P(
    Values, RefusedConfig,
    ::testing::Values(
        BadField{"/model_type", "\"llama\""}, BadField{"/model_type", nullptr}, BadField{"/model_type", "3"},
        BadField{"/num_key_value_heads", "3"}, BadField{"/num_attention_heads", "5"},
        BadField{"/rope_scaling/mrope_section", "[2, 3, 4]"}, BadField{"/rope_scaling/mrope_section", "[8]"},
        BadField{"/rope_scaling/mrope_section", "[9, -1, 0]"}, BadField{"/rope_scaling/mrope_section", "[2, 3, 3, 0]"},
        BadField{"/rope_scaling/type", "\"yarn\""}, BadField{"/rope_scaling", "[]"}, BadField{"/rope_theta", "0"},
        BadField{"/rope_theta", "\"1e6\""}, BadField{"/hidden_act", "\"gelu\""},
        BadField{"/use_sliding_window", "true"}, BadField{"/use_sliding_window", "0"},
        BadField{"/layer_types", "[\"sliding_attention\"]"}, BadField{"/quantization_config", "{\"bits\": 4}"},
        BadField{"/tie_word_embeddings", "1"}, BadField{"/rms_norm_eps", "0"}, BadField{"/head_dim", "15"},
        BadField{"/image_token_id", "320"}, BadField{"/image_token_id", "303"}, BadField{"/video_token_id", nullptr},
        BadField{"/vision_config", "7"}, BadField{"/vision_config/out_hidden_size", "128"},
        BadField{"/vision_config/num_heads", "3"}, BadField{"/vision_config/num_heads", "16"},
        BadField{"/vision_config/window_size", "60"}, BadField{"/vision_config/window_size", "14"},
        BadField{"/vision_config/hidden_act", "\"relu\""}, BadField{"/vision_config/in_chans", "4"},
        BadField{"/vision_config/in_channels", "1"}, BadField{"/vision_config/temporal_patch_size", "3"},
        BadField{"/vision_config/fullatt_block_indexes", "[2]"},
        BadField{"/vision_config/fullatt_block_indexes", "[1.0]"}, BadField{"/vision_config/tokens_per_second", "0"}));

TEST(Config, EveryIntegerRefusesWhatIsNoSize) {
  const std::vector<std::string> text = {"hidden_size", "num_hidden_layers",   "intermediate_size",
                                         "vocab_size",  "num_attention_heads", "num_key_value_heads"};
  const std::vector<std::string> vision = {"depth",      "hidden_size",        "num_heads",  "intermediate_size",
                                           "patch_size", "spatial_merge_size", "window_size"};
  for (const char* bad :
       {"0", "-1", "1.5", "true", "\"64\"", "[64]", "{}", "1000000000000000000", "18446744073709551615", "64.0"}) {
    const auto check = [&](const std::string& place, const std::string& name) {
      json config = flat_config();
      config[json::json_pointer(place + "/" + name)] = json::parse(bad);
      EXPECT_NE(input_error([&] { load(config); }).find(name + " is "), std::string::npos) << name << " " << bad;
    };
    for (const std::string& name : text) check("", name);
    for (const std::string& name : vision) check("/vision_config", name);
  }
  for (const std::string& name : text) {
    json config = flat_config();
    config.erase(name);
    EXPECT_NE(input_error([&] { load(config); }).find(name + " is missing"), std::string::npos);
  }
}

TEST(Config, LimitsOfLayers) {
  json config = flat_config();
  config["num_hidden_layers"] = 1024;
  EXPECT_EQ(load(config).text.layers, 1024);
  config["num_hidden_layers"] = 1025;
  input_error([&] { load(config); });
}

TEST(Config, RefusesTextThatIsNoObject) {
  const ScratchDirectory directory;
  std::string deep(20000, '[');
  for (const std::string& text :
       {std::string(), std::string("[]"), std::string("{"), std::string("{\"a\": NaN}"), std::string("{\"a\": 1e400}"),
        std::string("{\"a\": 1, \"a\": 1}"), std::string("{\"a\": \"\xff\"}"), "{\"a\": " + deep + "}",
        std::string("{}\n{}"), std::string("{\"a\\u000a\": 1, \"a\\u000a\": 1}")}) {
    directory.write("config.json", text);
    EXPECT_NE(input_error([&] { load_config(directory.path()); }).find("config.json: "), std::string::npos);
  }
}

TEST(Config, RefusesWhatIsNoFile) {
  const ScratchDirectory directory;
  EXPECT_NE(input_error([&] { load_config(directory.path()); }).find("config.json"), std::string::npos);
  input_error([&] { load_config(directory.file("absent")); });
  ASSERT_EQ(::mkfifo(directory.file("config.json").c_str(), 0600), 0);
  EXPECT_NE(input_error([&] { load_config(directory.path()); }).find("regular file"), std::string::npos);
  std::filesystem::remove(directory.file("config.json"));
  std::filesystem::create_directory(directory.file("config.json"));
  input_error([&] { load_config(directory.path()); });
}

TEST(GenerationConfig, ReadsListsAndLoneIds) {
  const ScratchDirectory directory;
  directory.write("generation_config.json",
                  R"({"eos_token_id": [7, 9], "do_sample": true, "temperature": 1e-6, "top_k": 1, "top_p": 0.001,
                      "repetition_penalty": 1.05, "pad_token_id": 3, "transformers_version": "4.49"})");
  const GenerationDefaults generation = load(flat_config(), directory).generation;
  EXPECT_EQ(generation.eos, (std::vector<std::int32_t>{7, 9}));
  EXPECT_TRUE(generation.do_sample);
  EXPECT_DOUBLE_EQ(generation.repetition_penalty, 1.05);
  EXPECT_EQ(generation.top_k, 1);
  directory.write("generation_config.json", R"({"eos_token_id": 7, "temperature": null})");
  EXPECT_EQ(load(flat_config(), directory).generation.eos, (std::vector<std::int32_t>{7}));
}

TEST(GenerationConfig, ConfigNamesEosWhereItIsAbsent) {
  json config = flat_config();
  config["eos_token_id"] = 5;
  EXPECT_EQ(load(config).generation.eos, (std::vector<std::int32_t>{5}));
}

TEST(GenerationConfig, RefusesBadValues) {
  for (const char* text : {R"({"eos_token_id": -1})", R"({"eos_token_id": "7"})", R"({"eos_token_id": [1.5]})",
                           R"({"eos_token_id": 4294967296})", R"({"temperature": -1})", R"({"top_p": 1.5})",
                           R"({"top_k": -1})", R"({"repetition_penalty": 0})", R"({"do_sample": "yes"})", "[]", ""}) {
    const ScratchDirectory directory;
    directory.write("generation_config.json", text);
    EXPECT_NE(input_error([&] { load(flat_config(), directory); }).find("generation_config.json"), std::string::npos)
        << text;
  }
}

TEST(Preprocessor, ReadsBothFiles) {
  const ScratchDirectory directory;
  directory.write("preprocessor_config.json",
                  R"({"min_pixels": 3136, "max_pixels": 12845056, "patch_size": 14, "merge_size": 2,
                      "temporal_patch_size": 2, "image_mean": [0.5, 0.5, 0.25], "image_std": [0.5, 1, 2]})");
  directory.write("video_preprocessor_config.json",
                  R"({"size": {"shortest_edge": 1000, "longest_edge": 20000}, "image_mean": [0.5, 0.5, 0.25],
                      "image_std": [0.5, 1, 2]})");
  const PreprocessConfig preprocess = load(flat_config(), directory).preprocess;
  EXPECT_EQ(preprocess.image_min_pixels, 3136);
  EXPECT_EQ(preprocess.image_max_pixels, 12845056);
  EXPECT_EQ(preprocess.video_min_pixels, 1000);
  EXPECT_EQ(preprocess.video_max_pixels, 20000);
  EXPECT_FLOAT_EQ(preprocess.mean[2], 0.25F);
  EXPECT_FLOAT_EQ(preprocess.std[2], 2.0F);
}

TEST(Preprocessor, ImageFileDoesNotBoundVideos) {
  const ScratchDirectory directory;
  directory.write("preprocessor_config.json", R"({"min_pixels": 784, "max_pixels": 1568})");
  EXPECT_EQ(load(flat_config(), directory).preprocess.video_max_pixels, PreprocessConfig{}.video_max_pixels);
}

TEST(Preprocessor, RefusesBadValues) {
  for (const char* name : {"preprocessor_config.json", "video_preprocessor_config.json"})
    for (const char* text :
         {R"({"patch_size": 0})", R"({"patch_size": 16})", R"({"merge_size": 0})", R"({"temporal_patch_size": 1})",
          R"({"min_pixels": 2000, "max_pixels": 1999})", R"({"min_pixels": 1, "max_pixels": 783})",
          R"({"min_pixels": -1})", R"({"max_pixels": 1.5})", R"({"size": 3})", R"({"size": {"longest_edge": "a"}})",
          R"({"image_std": [0, 1, 1]})", R"({"image_std": [1, 1]})", R"({"image_mean": [1, 1, 1, 1]})",
          R"({"image_mean": 0.5})", R"({"image_mean": [1, true, 1]})", R"({"do_normalize": false})",
          R"({"rescale_factor": 0})"}) {
      const ScratchDirectory directory;
      directory.write(name, text);
      const std::string line = input_error([&] { load(flat_config(), directory); });
      EXPECT_NE(line.find(std::string("/") + name), std::string::npos) << line;
    }
}

}  // namespace
}  // namespace purekv
