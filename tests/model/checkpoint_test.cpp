#include "model/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstring>

#include "model/scratch_model.h"

namespace purekv {
namespace {

using nlohmann::json;
using testing::input_error;
using testing::safetensors;
using testing::ScratchDirectory;

constexpr const char* kHeader =
    R"({"__metadata__":{"format":"pt"},"model.norm.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
    R"("lm_head.weight":{"dtype":"BF16","shape":[1,3],"data_offsets":[8,14]},)"
    R"("visual.x":{"dtype":"F16","shape":[2,1],"data_offsets":[14,18]},)"
    R"("empty":{"dtype":"F32","shape":[0,4],"data_offsets":[18,18]}})";

std::string data() {
  std::string out(18, '\0');
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(i);
  return out;
}

void open_single(const std::string& file) {
  const ScratchDirectory directory;
  directory.write("model.safetensors", file);
  Checkpoint::open(directory.path());
}

std::string refused(const std::string& file) {
  const std::string line = input_error([&] { open_single(file); });
  EXPECT_NE(line.find("model.safetensors: "), std::string::npos) << line;
  return line;
}

/// A file of one tensor with this body.
std::string one_tensor(const std::string& body, std::size_t bytes) {
  return safetensors("{\"a\":" + body + "}", std::string(bytes, 'x'));
}

TEST(Checkpoint, ViewsLieInTheFile) {
  const ScratchDirectory directory;
  directory.write("model.safetensors", safetensors(kHeader, data()));
  Checkpoint checkpoint = Checkpoint::open(directory.path());
  const Checkpoint moved = std::move(checkpoint);  // a move must keep the mapping
  EXPECT_EQ(moved.bytes(), 18);
  EXPECT_TRUE(moved.has("empty"));
  EXPECT_FALSE(moved.has("__metadata__"));
  const TensorView& view = moved.tensor("visual.x", {2, 1});
  EXPECT_EQ(view.dtype, DType::kF16);
  EXPECT_EQ(std::memcmp(view.data, data().data() + 14, 4), 0);
}

TEST(Checkpoint, TrailingSpacesOfTheHeaderAreLegal) { open_single(safetensors(std::string(kHeader) + "   ", data())); }

TEST(Checkpoint, ShapesAreExact) {
  const ScratchDirectory directory;
  directory.write("model.safetensors", safetensors(kHeader, data()));
  const Checkpoint checkpoint = Checkpoint::open(directory.path());
  EXPECT_NE(input_error([&] { (void)checkpoint.tensor("lm_head.weight", {3, 1}); }).find("[1, 3]"), std::string::npos);
  EXPECT_NE(input_error([&] { (void)checkpoint.tensor("absent", {3}); }).find("'absent' is missing"),
            std::string::npos);
}

TEST(Checkpoint, EveryPrefixHasOneName) {
  const std::pair<const char*, const char*> names[] = {{"model.layers.0.w", "model.layers.0.w"},
                                                       {"model.language_model.layers.0.w", "model.layers.0.w"},
                                                       {"language_model.model.layers.0.w", "model.layers.0.w"},
                                                       {"visual.w", "visual.w"},
                                                       {"model.visual.w", "visual.w"},
                                                       {"language_model.lm_head.weight", "lm_head.weight"},
                                                       {"lm_head.weight", "lm_head.weight"}};
  for (const auto& [stored, wanted] : names) {
    const ScratchDirectory directory;
    directory.write(
        "model.safetensors",
        safetensors(json{{stored, {{"dtype", "F32"}, {"shape", {1}}, {"data_offsets", {0, 4}}}}}.dump(), "abcd"));
    EXPECT_TRUE(Checkpoint::open(directory.path()).has(wanted)) << stored;
  }
}

TEST(Checkpoint, TwoNamesForOneTensorAreRefused) {
  EXPECT_NE(refused(safetensors(R"({"visual.w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                                R"("model.visual.w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                                "abcdefgh"))
                .find("already"),
            std::string::npos);
}

TEST(Checkpoint, EveryTruncationIsRefused) {
  const std::string whole = safetensors(kHeader, data());
  for (std::size_t length = 0; length < whole.size(); ++length) refused(whole.substr(0, length));
  refused(whole + "x");
  open_single(whole);
}

TEST(Checkpoint, EveryBitFlipOfTheHeaderIsRefusedOrHarmless) {
  const std::string whole = safetensors(kHeader, data());
  for (std::size_t bit = 0; bit < (8 + std::strlen(kHeader)) * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const ScratchDirectory directory;
    directory.write("model.safetensors", flipped);
    try {
      EXPECT_EQ(Checkpoint::open(directory.path()).bytes(), 18) << bit;  // a name or a shape of equal size changed
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput);
    }
  }
}

TEST(Checkpoint, HeaderLengthIsChecked) {
  for (const char* length : {"\0\0\0\0\0\0\0\0", "\1\0\0\0\0\0\0\0", "\xff\xff\xff\xff\xff\xff\xff\xff",
                             "\0\0\0\0\0\0\0\x80", "\xf8\xff\xff\xff\xff\xff\xff\xff", "\1\xe1\xf5\5\0\0\0\0"})
    refused(std::string(length, 8) + std::string(kHeader) + data());
}

TEST(Checkpoint, HeadersThatAreNoHeaderAreRefused) {
  for (const std::string& header :
       {std::string("[]"), std::string(" {}"), std::string("{}{}"), std::string("{\"a\":}"), std::string("{\"a\":1}"),
        std::string("{\"a\":{}}"), std::string("{\"__metadata__\":{\"x\":1}}"), std::string("{\"__metadata__\":[]}"),
        std::string("{\"a\xff\":1}"), std::string("{\"a\":[[[[[1]]]]]}")})
    refused(safetensors(header, ""));
  open_single(safetensors("{}", ""));
}

TEST(Checkpoint, EntriesAreChecked) {
  open_single(one_tensor(R"({"dtype":"F32","shape":[],"data_offsets":[0,4]})", 4));
  for (const char* body : {
           R"({"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1})",
           R"({"dtype":"F32","shape":[1]})",
           R"({"dtype":"I64","shape":[1],"data_offsets":[0,4]})",
           R"({"dtype":3,"shape":[1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[2],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1.0],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":["1"],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[true],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1e400],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":1,"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[4611686018427387905],"data_offsets":[0,4]})",    // wraps to 4 bytes
           R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]})",  // wraps to 0
           R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[4,0]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[0]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[0,4,4]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})",
           R"({"dtype":"F32","shape":[1],"data_offsets":[18446744073709551612,18446744073709551615]})",
           R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]})",
       })
    refused(one_tensor(body, 4));
}

TEST(Checkpoint, OffsetsCoverTheDataExactly) {
  const auto two = [](const char* first, const char* second, std::size_t bytes) {
    return safetensors(fmt::format(R"({{"a":{{"dtype":"F32","shape":[1],"data_offsets":[{}]}},)"
                                   R"("b":{{"dtype":"F32","shape":[1],"data_offsets":[{}]}}}})",
                                   first, second),
                       std::string(bytes, 'x'));
  };
  open_single(two("0,4", "4,8", 8));
  open_single(two("4,8", "0,4", 8));
  refused(two("0,4", "0,4", 4));
  refused(two("0,4", "2,6", 6));
  refused(two("0,4", "5,9", 9));
  refused(two("0,4", "4,8", 9));
  refused(two("0,4", "4,8", 7));
}

TEST(Checkpoint, BadNamesAreRefusedOnOneLine) {
  for (const std::string& name : {std::string(), std::string("a\\u0000b"), std::string(1025, 'n')})
    refused(safetensors("{\"" + name + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "abcd"));
  refused(safetensors(R"({"a\nb":{"dtype":"F32","shape":[3],"data_offsets":[0,4]}})", "abcd"));
  refused(safetensors(R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                      "abcd"));
}

TEST(Checkpoint, WhatIsNoFileIsRefused) {
  const ScratchDirectory directory;
  input_error([&] { Checkpoint::open(directory.path()); });
  input_error([&] { Checkpoint::open(directory.file("absent")); });
  std::filesystem::create_directory(directory.file("model.safetensors"));
  input_error([&] { Checkpoint::open(directory.path()); });
  std::filesystem::remove(directory.file("model.safetensors"));
  ASSERT_EQ(::mkfifo(directory.file("model.safetensors").c_str(), 0600), 0);
  input_error([&] { Checkpoint::open(directory.path()); });
}

/// Two shards of one tensor each, and their index.
class Shards : public ::testing::Test {
 protected:
  static constexpr const char* kNames[] = {"one.safetensors", "two.safetensors"};
  void SetUp() override {
    directory_.write(kNames[0], shard("a"));
    directory_.write(kNames[1], shard("b"));
    index({{"a", kNames[0]}, {"b", kNames[1]}});
  }
  static std::string shard(const std::string& tensor) {
    return safetensors("{\"" + tensor + R"(":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", "abcd");
  }
  void index(const json& map) const {
    directory_.write("model.safetensors.index.json", json{{"weight_map", map}}.dump());
  }
  std::string refused() const {
    return input_error([&] { Checkpoint::open(directory_.path()); });
  }
  ScratchDirectory directory_;
};

TEST_F(Shards, Open) {
  const Checkpoint checkpoint = Checkpoint::open(directory_.path());
  EXPECT_TRUE(checkpoint.has("a"));
  EXPECT_TRUE(checkpoint.has("b"));
  EXPECT_EQ(checkpoint.bytes(), 8);
}

TEST_F(Shards, MayBeLinksOutOfTheDirectory) {
  const ScratchDirectory elsewhere;
  elsewhere.write("blob", shard("b"));
  std::filesystem::remove(directory_.file(kNames[1]));
  std::filesystem::create_symlink(elsewhere.file("blob"), directory_.file(kNames[1]));
  EXPECT_TRUE(Checkpoint::open(directory_.path()).has("b"));
}

TEST_F(Shards, MissingShardIsNamed) {
  std::filesystem::remove(directory_.file(kNames[1]));
  EXPECT_NE(refused().find("two.safetensors"), std::string::npos);
}

TEST_F(Shards, IndexAndShardsMustAgree) {
  index({{"a", kNames[0]}, {"b", kNames[1]}, {"c", kNames[1]}});
  EXPECT_NE(refused().find("'c'"), std::string::npos);
  index({{"a", kNames[0]}, {"c", kNames[1]}});
  EXPECT_NE(refused().find("'b'"), std::string::npos);
  index({{"a", kNames[1]}, {"b", kNames[0]}});
  refused();
  directory_.write(kNames[1], shard("a"));
  index({{"a", kNames[0]}, {"b", kNames[1]}});
  refused();
}

TEST_F(Shards, NamesWithAPathAreRefused) {
  for (const char* name : {"../one.safetensors", "/etc/passwd", "sub/one.safetensors", "", ".", "..", "a\\b"}) {
    index({{"a", name}, {"b", kNames[1]}});
    EXPECT_NE(refused().find("same directory"), std::string::npos) << name;
  }
  index({{"a", 3}});
  refused();
}

TEST_F(Shards, BadIndexIsRefused) {
  for (const char* text : {"", "[]", "{}", R"({"weight_map": {}})", R"({"weight_map": []})",
                           R"({"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}})"}) {
    directory_.write("model.safetensors.index.json", text);
    EXPECT_NE(refused().find("index.json"), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace purekv
