#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "purekv/error.h"

namespace purekv::testing {

/// A directory that goes when the test does.
class ScratchDirectory {
 public:
  ScratchDirectory() {
    std::string name = (std::filesystem::temp_directory_path() / "purekv_model_XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(file(name), std::ios::binary) << text;
  }

 private:
  std::string path_;
};

/// The header length, the header, the data.
inline std::string safetensors(const std::string& header, const std::string& data) {
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[static_cast<std::size_t>(i)] = static_cast<char>(header.size() >> (8 * i));
  return out + header + data;
}

/// Runs `body`, which must throw Error(kInput) of one line; returns the line.
inline std::string input_error(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    const std::string line = error.what();
    EXPECT_EQ(line.find('\n'), std::string::npos) << line;
    EXPECT_LT(line.size(), 3000U);
    return line;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another exception: " << error.what();
    return {};
  }
  ADD_FAILURE() << "accepted";
  return {};
}

/// A small Qwen2.5-VL config in the flat form.
inline nlohmann::json flat_config() {
  return nlohmann::json::parse(R"({"model_type": "qwen2_5_vl", "hidden_size": 64, "num_hidden_layers": 2,
    "intermediate_size": 160, "vocab_size": 320, "num_attention_heads": 4, "num_key_value_heads": 2,
    "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}, "rope_theta": 1000000.0, "hidden_act": "silu",
    "max_position_embeddings": 4096, "tie_word_embeddings": true, "rms_norm_eps": 1e-6, "use_sliding_window": false,
    "vision_start_token_id": 300, "vision_end_token_id": 301, "image_token_id": 302, "video_token_id": 303,
    "vision_config": {"depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 92, "out_hidden_size": 64,
      "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56, "in_chans": 3,
      "fullatt_block_indexes": [1], "tokens_per_second": 2}})");
}

}  // namespace purekv::testing
