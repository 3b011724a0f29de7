#include "purekv/tokenizer.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include "purekv/error.h"
#include "text/small_tokenizer.h"

namespace purekv {
namespace {

using nlohmann::json;
using testing::letter;
using testing::Pairs;
using testing::ScratchFolder;
using testing::small_tokenizer;
using Ids = std::vector<std::int32_t>;

Tokenizer load(const json& document) {
  const ScratchFolder folder;
  return Tokenizer::load(folder.write(document.dump()));
}

/// The message of the error that loading `text` must give.
std::string load_error(const std::string& text) {
  const ScratchFolder folder;
  try {
    Tokenizer::load(folder.write(text));
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    EXPECT_EQ(std::string(error.what()).rfind(folder.file(), 0), 0U) << error.what();
    return error.what();
  }
  return {};
}

TEST(Tokenizer, MergesAndSplits) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.encode("the the", false), (Ids{257, 258}));
  EXPECT_EQ(tokenizer.encode("th", false), (Ids{256}));
  EXPECT_EQ(tokenizer.encode("", false), Ids{});
  EXPECT_EQ(tokenizer.encode(std::string_view("\0", 1), false), (Ids{0}));
  EXPECT_EQ(tokenizer.encode("e\u0301", false), (Ids{0xC3, 0xA9})) << "NFC comes first";
}

TEST(Tokenizer, AddedTokensOnlyWhereAsked) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.encode("the<|end|>>", true), (Ids{257, 260}));
  EXPECT_EQ(tokenizer.encode("<|end|> <tool>", true), (Ids{259, ' ', 261}));
  for (const char* text : {"<|end|>", "<|end|>>", "<tool>", "a<tool>b"})
    for (const std::int32_t id : tokenizer.encode(text, false)) EXPECT_LT(id, 259) << text;
  EXPECT_EQ(tokenizer.added_id("<|end|>"), 259);
  EXPECT_EQ(tokenizer.added_id("<tool>"), 261);
  EXPECT_EQ(tokenizer.added_id("the"), -1);
}

TEST(Tokenizer, DecodesBytesOfAllIdsTogether) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.decode({0xF0, 0x9F, 0x98, 0x80, 258}, false), "\U0001F600 the");
  EXPECT_EQ(tokenizer.decode({0xF0, 0x9F, 'x', 0xFF}, false), "\uFFFDx\uFFFD");
  EXPECT_EQ(tokenizer.decode({259, 261, 'a'}, false), "<tool>a");
  EXPECT_EQ(tokenizer.decode({259, 261, 'a'}, true), "<|end|><tool>a");
  EXPECT_EQ(tokenizer.decode({0xF0, 259, 0x9F, 0x98, 0x80}, false), "\U0001F600") << "a skipped id splits nothing";
  EXPECT_EQ(tokenizer.decode({-1, 262, 2147483647, 'z'}, true), "z");
  EXPECT_EQ(tokenizer.decode({}, false), "");
}

TEST(Tokenizer, BytesOfOneId) {
  const Tokenizer tokenizer = load(small_tokenizer());
  EXPECT_EQ(tokenizer.bytes_of(0xF0), "\xF0");
  EXPECT_EQ(tokenizer.bytes_of(258), " the");
  EXPECT_EQ(tokenizer.bytes_of(259), "");
  EXPECT_EQ(tokenizer.bytes_of(261), "<tool>");
  EXPECT_EQ(tokenizer.bytes_of(262), "");
  EXPECT_EQ(tokenizer.bytes_of(-5), "");
}

TEST(Tokenizer, IllFormedTextIsAnInputError) {
  const Tokenizer tokenizer = load(small_tokenizer());
  for (const char* text : {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "a\xFF", "\xE2\x82", "\x80"})
    for (const bool special : {false, true}) try {
        (void)tokenizer.encode(text, special);
        ADD_FAILURE() << ::testing::PrintToString(text);
      } catch (const Error& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kInput);
      }
}

TEST(Tokenizer, BothSpellingsOfMerges) {
  json document = small_tokenizer();
  document["model"]["merges"] = {"t h", "th e", letter(' ') + " the"};
  EXPECT_EQ(load(document).encode("the the", false), (Ids{257, 258}));
}

TEST(Tokenizer, ALaterRankOfAPairWins) {
  json document = small_tokenizer();
  document["model"]["vocab"]["he"] = 262;
  document["model"]["merges"] = Pairs{{"t", "h"}, {"h", "e"}, {"t", "h"}};
  EXPECT_EQ(load(document).encode("the", false), (Ids{'t', 262}));
}

TEST(Tokenizer, VariantsOfTheFile) {
  json document = small_tokenizer();
  document["model"]["ignore_merges"] = true;
  document["model"]["merges"] = json::array();
  EXPECT_EQ(load(document).encode("the them", false), (Ids{257, ' ', 't', 'h', 'e', 'm'}));
  document = small_tokenizer();
  document["pre_tokenizer"] = {{"type", "ByteLevel"}};
  EXPECT_EQ(load(document).encode("the", false), (Ids{258})) << "the prefix space is on by default";
  document["normalizer"] = nullptr;
  EXPECT_EQ(load(document).encode(" e\u0301", false).size(), 4U);
}

struct Broken {
  const char* name;
  std::string text;
  const char* says;
};

/// `change` applied to a good file.
template <class Change>
std::string changed(const Change& change) {
  json document = small_tokenizer();
  change(document);
  return document.dump();
}

std::string deep_objects() {
  std::string text;
  for (int i = 0; i < 10000; ++i) text += "{\"a\":";
  return text;
}

std::vector<Broken> broken_syntax() {
  return {
      {"empty", "", "no valid JSON"},
      {"no JSON", "vocab", "no valid JSON"},
      {"cut", small_tokenizer().dump().substr(0, 2000), "no valid JSON"},
      {"zeros behind it", small_tokenizer().dump() + std::string(3, '\0'), "no valid JSON"},
      {"no UTF-8", "{\"model\":\"\xFF\"}", "no valid JSON"},
      {"lone surrogate", R"({"model":"\ud800"})", "no valid JSON"},
      {"huge number", R"({"model":1e999})", "out of range"},
      {"list", "[]", "is a list of 0"},
      {"deep lists", std::string(10000, '['), "nested deeper"},
      {"deep objects", deep_objects(), "nested deeper"},
      {"key twice", R"({"model":{},"model":{}})", "twice"},
      {"no model", "{}", "model is missing"},
      {"model is a list", R"({"model":[]})", "model is a list"},
  };
}

std::vector<Broken> broken_model() {
  const auto model = [](const char* field, const json& value) {
    return changed([&](json& d) { d["model"][field] = value; });
  };
  const auto id_of_the = [](const json& id) { return changed([&](json& d) { d["model"]["vocab"]["the"] = id; }); };
  return {
      {"type", model("type", "WordPiece"), "\"WordPiece\""},
      {"no vocab", model("vocab", nullptr), "model.vocab is missing"},
      {"vocab list", model("vocab", {1, 2}), "model.vocab is a list of 2"},
      {"empty vocab", model("vocab", json::object()), "model.vocab is empty"},
      {"no merges", model("merges", nullptr), "model.merges is missing"},
      {"merges object", model("merges", json::object()), "model.merges is an object"},
      {"merges text", model("merges", "t h"), "model.merges is \"t h\""},
      {"merge of one", model("merges", json::array({"th"})), "model.merges[0] is \"th\""},
      {"merge of three", model("merges", json::array({"t h e"})), "model.merges[0]"},
      {"merge list of one", model("merges", Pairs{{"t", "h"}, {"t"}}), "model.merges[1]"},
      {"merge list of three", model("merges", Pairs{{"t", "h", "e"}, {"t", "h"}}), "model.merges[0]"},
      {"merge of numbers", model("merges", json::array({json::array({1, 2})})), "model.merges[0]"},
      {"merge number", model("merges", json::array({7})), "model.merges[0] is 7"},
      {"merge object", model("merges", json::array({json::object()})), "model.merges[0] is an object"},
      {"merge nested", model("merges", json::array({json::array({json::array(), "h"})})), "model.merges[0]"},
      {"unknown left", model("merges", Pairs{{"zz", "h"}, {"t", "h"}}), "needs the token \"zzh\""},
      {"unknown joined", model("merges", Pairs{{"h", "t"}, {"t", "h"}}), "needs the token \"ht\""},
      {"prefix", model("continuing_subword_prefix", "##"), "continuing_subword_prefix is \"##\""},
      {"dropout", model("dropout", 0.1), "model.dropout is 0.1"},
      {"negative id", id_of_the(-1), "is -1"},
      {"id 2^40", id_of_the(1LL << 40), "is 1099511627776"},
      {"id of text", id_of_the("5"), "is \"5\""},
      {"fraction", id_of_the(1.5), "is 1.5"},
      {"id list", id_of_the(json::array({1})), "is a list"},
      {"id twice", id_of_the(3), "the id 3"},
      {"10 MiB token", changed([](json& d) { d["model"]["vocab"][std::string(10U << 20U, 'a')] = 300; }),
       "10485760 bytes"},
  };
}

std::vector<Broken> broken_rest() {
  const auto added = [](const char* field, const json& value) {
    return changed([&](json& d) { d["added_tokens"][0][field] = value; });
  };
  const auto split = [](const char* field, const json& value) {
    return changed([&](json& d) { d["pre_tokenizer"]["pretokenizers"][0][field] = value; });
  };
  const auto top = [](const char* field, const json& value) { return changed([&](json& d) { d[field] = value; }); };
  return {
      {"added object", top("added_tokens", json::object()), "added_tokens is an object"},
      {"added number", top("added_tokens", json::array({1})), "added_tokens[0] is 1"},
      {"added without id", added("id", nullptr), "added_tokens[0].id is missing"},
      {"added negative", added("id", -3), "added_tokens[0].id is -3"},
      {"added id twice", added("id", 260), "the id 260"},
      {"added id of a byte", added("id", 65), "the id 65"},
      {"added empty", added("content", ""), "added_tokens[0].content"},
      {"added text twice", added("content", "<tool>"), "another added token"},
      {"added text of the vocabulary", added("content", "the"), "the id 257"},
      {"added long", added("content", std::string(5000, 'x')), "5000 bytes"},
      {"added flag", added("special", 1), "added_tokens[0].special is 1"},
      {"normalizer", top("normalizer", {{"type", "NFKC"}}), "normalizer.type is \"NFKC\""},
      {"normalizer text", top("normalizer", "NFC"), "normalizer is \"NFC\""},
      {"no pre_tokenizer", top("pre_tokenizer", nullptr), "pre_tokenizer is missing"},
      {"pre_tokenizer", top("pre_tokenizer", {{"type", "Metaspace"}}), "pre_tokenizer.type is \"Metaspace\""},
      {"empty sequence", top("pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", json::array()}}), "a list of 0"},
      {"behavior", split("behavior", "Removed"), "behavior is \"Removed\""},
      {"invert", split("invert", true), "invert is true"},
      {"no regex", split("pattern", {{"String", " "}}), "pattern.Regex is missing"},
      {"bad regex", split("pattern", {{"Regex", "(a"}}), "no valid pattern"},
      {"long regex", split("pattern", {{"Regex", std::string(100000, 'a')}}), "100000 bytes"},
      {"deep regex", split("pattern", {{"Regex", std::string(5000, '(') + std::string(5000, ')')}}),
       "no valid pattern"},
      {"ByteLevel not last", split("type", "ByteLevel"), "pretokenizers[0].type"},
      {"post_processor", top("post_processor", {{"type", "TemplateProcessing"}}), "post_processor.type"},
      {"decoder", top("decoder", {{"type", "WordPiece"}}), "decoder is an object"},
      {"no decoder", top("decoder", nullptr), "decoder is missing"},
  };
}

TEST(TokenizerFile, EveryDamageIsNamed) {
  for (const auto& list : {broken_syntax(), broken_model(), broken_rest()})
    for (const Broken& broken : list) {
      const std::string message = load_error(broken.text);
      EXPECT_NE(message, "") << broken.name << ": loaded";
      EXPECT_NE(message.find(broken.says), std::string::npos) << broken.name << ": " << message;
      EXPECT_LT(message.size(), 600U) << broken.name;
    }
}

TEST(TokenizerFile, CutAnywhereItNeverLoads) {
  const std::string text = small_tokenizer().dump();
  for (std::size_t size = 0; size < text.size(); size += 97) EXPECT_NE(load_error(text.substr(0, size)), "") << size;
}

TEST(TokenizerFile, OnlyARegularFileIsRead) {
  const ScratchFolder folder;
  ASSERT_EQ(mkfifo(folder.file().c_str(), 0600), 0);
  for (const std::string& path :
       {folder.file(), std::string("/dev/zero"), std::string("/tmp"), folder.file() + "-none"}) {
    try {
      Tokenizer::load(path);
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << error.what();
    }
  }
}

TEST(DemoTokenizer, KnownIdsAndRoundTrip) {
  const Tokenizer tokenizer = Tokenizer::load(std::string(PUREKV_SOURCE_DIR) + "/models/demo/tokenizer.json");
  EXPECT_EQ(tokenizer.added_id("<|video_pad|>"), 1379);
  EXPECT_EQ(tokenizer.encode("<|video_pad|>", true), (Ids{1379}));
  for (const std::string text : {"What moves?", "\u65E5\u672C\u8A9E \U0001F468\u200D\U0001F469", "a\r\n\t b  ", ""})
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text, false), false), text);
}

TEST(QwenTokenizer, PublishedIds) {
  const std::string path = std::string(PUREKV_SOURCE_DIR) + "/../shared/tokenizer/tokenizer.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path;
  const Tokenizer tokenizer = Tokenizer::load(path);
  EXPECT_EQ(tokenizer.encode("You should've done this", false), (Ids{2610, 1265, 3003, 2814, 419}));
  EXPECT_EQ(tokenizer.encode("A\n'll !!to?'d''d of, can't.", false),
            (Ids{32, 198, 3278, 11015, 983, 20224, 67, 4605, 67, 315, 11, 646, 944, 13}));
  EXPECT_EQ(tokenizer.encode("<video>\n", true), (Ids{27, 9986, 397}));
  EXPECT_EQ(tokenizer.encode("Describe this video.", false), (Ids{74785, 419, 2766, 13}));
  EXPECT_EQ(tokenizer.encode("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n", true),
            (Ids{151644, 8948, 198, 2610, 525, 264, 10950, 17847, 13, 151645, 198}));
  EXPECT_EQ(tokenizer.added_id("<|video_pad|>"), 151656);
}

}  // namespace
}  // namespace purekv
