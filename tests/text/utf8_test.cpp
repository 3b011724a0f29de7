#include "text/utf8.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "purekv/tokenizer.h"
#include "text/byte_alphabet.h"

namespace purekv {
namespace {

using Kind = Utf8Step::Kind;

std::string lossy(std::string_view bytes) {
  std::string out;
  EXPECT_EQ(append_lossy(out, bytes, false), bytes.size());
  return out;
}

TEST(Utf8, EveryCodePointGoesThereAndBack) {
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code >= 0xD800 && code < 0xE000) continue;
    std::string text;
    append_utf8(text, code);
    const Utf8Step step = read_utf8(text);
    ASSERT_TRUE(step.kind == Kind::kWhole && step.code == code && step.length == text.size())
        << std::hex << static_cast<std::uint32_t>(code);
    // Every true prefix is cut, not broken.
    for (std::size_t n = 1; n < text.size(); ++n) ASSERT_EQ(read_utf8(text.substr(0, n)).kind, Kind::kCut);
  }
}

TEST(Utf8, IllFormedPartsAreMaximal) {
  struct Case {
    std::string_view bytes;
    std::uint8_t length;
  };
  const std::vector<Case> cases = {
      {"\x80", 1},
      {"\xBF", 1},
      {"\xC0\x80", 1},
      {"\xC1\xBF", 1},
      {"\xE0\x80\x80", 1},
      {"\xE0\x9F\xBF", 1},
      {"\xED\xA0\x80", 1},
      {"\xED\xBF\xBF", 1},
      {"\xF0\x8F\xBF\xBF", 1},
      {"\xF4\x90\x80\x80", 1},
      {"\xF5\x80", 1},
      {"\xFF", 1},
      {"\xFE", 1},
      {"\xC3(", 1},
      {"\xE2\x82(", 2},
      {"\xF0\x9F\x98(", 3},
      {"\xF0\x9F\xF0", 2},
      {"\xE2\xE2", 1},
  };
  for (const Case& c : cases) {
    const Utf8Step step = read_utf8(c.bytes);
    EXPECT_EQ(step.kind, Kind::kBroken) << ::testing::PrintToString(c.bytes);
    EXPECT_EQ(step.length, c.length) << ::testing::PrintToString(c.bytes);
  }
}

TEST(Utf8, OneReplacementForEachPart) {
  EXPECT_EQ(lossy("a\xF0\x9F\x98z"), "a\uFFFDz");
  EXPECT_EQ(lossy("\xF0\x9F\x98"), "\uFFFD");
  EXPECT_EQ(lossy("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(lossy("\xE2\x82\xE2\x82\xAC\xFF"), "\uFFFD\u20AC\uFFFD");
  EXPECT_EQ(lossy(std::string_view("\0\x80\0", 3)), std::string_view("\0\uFFFD\0", 5));
  EXPECT_EQ(lossy(""), "");
}

TEST(Utf8, FindsTheFirstIllFormedByte) {
  EXPECT_EQ(find_ill_formed("plain \u00E9 \U0001F600"), std::string_view::npos);
  EXPECT_EQ(find_ill_formed(""), std::string_view::npos);
  EXPECT_EQ(find_ill_formed("ab\xC0\x80"), 2U);
  EXPECT_EQ(find_ill_formed("\u00E9\xE2\x82"), 2U);
}

TEST(ByteAlphabet, IsOneToOne) {
  for (int byte = 0; byte < 256; ++byte)
    EXPECT_EQ(kByteAlphabet.byte_of[kByteAlphabet.letter_of[static_cast<std::size_t>(byte)]], byte);
  EXPECT_EQ(kByteAlphabet.letter_of[' '], U'\u0120');
  EXPECT_EQ(kByteAlphabet.letter_of['\n'], U'\u010A');
  EXPECT_EQ(kByteAlphabet.letter_of[0xAD], U'\u0143');
}

TEST(Utf8Stream, EverySplitInTwoGivesTheWholeText) {
  const std::string text = "a\u00E9\u20AC\U0001F600\xF0\x9F\xE2\x82z\xED\xA0\x80\xC3";
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Utf8Stream stream;
    std::string out = stream.push(text.substr(0, cut));
    EXPECT_EQ(find_ill_formed(out), std::string_view::npos);
    out += stream.push(text.substr(cut));
    out += stream.finish();
    EXPECT_EQ(out, lossy(text)) << cut;
  }
}

TEST(Utf8Stream, RandomBytesInRandomPieces) {
  std::mt19937 random(5);
  // Lead and continuation bytes far more often than chance has them.
  const std::string pool = "a\n\x80\x9F\xA0\xBF\xC2\xDF\xE0\xE2\xED\xEF\xF0\xF4\x90\xFF";
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (std::size_t i = random() % 24; i > 0; --i) text += pool[random() % pool.size()];
    Utf8Stream stream;
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t count = 1 + random() % 4;
      const std::string whole = stream.push(text.substr(at, count));
      ASSERT_EQ(find_ill_formed(whole), std::string_view::npos);
      out += whole;
      at += count;
    }
    out += stream.finish();
    ASSERT_EQ(out, lossy(text)) << ::testing::PrintToString(text);
    ASSERT_EQ(stream.finish(), "");
  }
}

}  // namespace
}  // namespace purekv
