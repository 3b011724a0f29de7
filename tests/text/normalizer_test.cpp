#include "text/normalizer.h"

#include <gtest/gtest.h>
#include <utf8proc.h>

#include <cstdlib>
#include <random>

#include "text/unicode_tables.h"
#include "text/utf8.h"

namespace purekv {
namespace {

/// utf8proc's own NFC, quadratic on runs of marks.
std::string nfc_twin(const std::string& text) {
  utf8proc_uint8_t* const out = utf8proc_NFC(reinterpret_cast<const utf8proc_uint8_t*>(text.c_str()));
  std::string result(reinterpret_cast<const char*>(out));
  std::free(out);  // NOLINT(cppcoreguidelines-no-malloc): utf8proc allocates it so
  return result;
}

TEST(Normalizer, KnownForms) {
  EXPECT_EQ(to_nfc(""), "");
  EXPECT_EQ(to_nfc("plain"), "plain");
  EXPECT_EQ(to_nfc("e\u0301"), "\u00E9");
  EXPECT_EQ(to_nfc("\u00E9"), "\u00E9");
  EXPECT_EQ(to_nfc("\u212B\u2126"), "\u00C5\u03A9");
  EXPECT_EQ(to_nfc("\u0301e"), "\u0301e") << "a mark without a starter stays";
  EXPECT_EQ(to_nfc("q\u0307\u0323"), "q\u0323\u0307") << "marks by class";
  EXPECT_EQ(to_nfc("a\u0301\u0323"), "\u1EA1\u0301") << "the lower class composes first";
  EXPECT_EQ(to_nfc("\u0958"), "\u0915\u093C") << "excluded from composition";
  EXPECT_EQ(to_nfc("\u1112\u1161\u11AB"), "\uD55C");
  EXPECT_EQ(to_nfc(std::string("a\0e\u0301", 5)), std::string("a\0\u00E9", 4));
}

TEST(Normalizer, NothingYoungerThanUnicode9Composes) {
  EXPECT_EQ(to_nfc("\U00011935\U00011930"), "\U00011935\U00011930");
  EXPECT_EQ(to_nfc("a\u1AC5\u0323"), "a\u1AC5\u0323") << "its class is not known, so it is no mark";
}

TEST(Normalizer, TheHangulTrailBaseIsNoTrail) {
  EXPECT_EQ(to_nfc("\uADF8\u11A7\u11BB"), "\uADF8\u11A7\u11BB");
  EXPECT_EQ(to_nfc("\uADF8\u11A8"), "\uADF9");
}

TEST(Normalizer, EqualsUtf8procOnRandomText) {
  std::mt19937 random(9);
  const auto pick = [&random] {
    switch (random() % 4) {
      case 0:
        return static_cast<char32_t>('A' + random() % 58);
      case 1:
        return static_cast<char32_t>(0x300 + random() % 0x70);
      case 2:
        return static_cast<char32_t>(0x1100 + random() % 0x100);
      default:
        return static_cast<char32_t>(0x80 + random() % 0xA000);
    }
  };
  for (int round = 0; round < 20000; ++round) {
    std::string text;
    for (std::size_t i = random() % 16; i > 0; --i) {
      const char32_t code = pick();
      if (code != 0x11A7 && !is_inert_under_nfc(code)) append_utf8(text, code);
    }
    ASSERT_EQ(to_nfc(text), nfc_twin(text)) << ::testing::PrintToString(text);
  }
}

TEST(Normalizer, AMebibyteOfMixedMarksComesOutOrdered) {
  std::string text = "x";
  for (int i = 0; i < 1 << 18; ++i) text += i % 2 == 0 ? "\u0315" : "\u0323";  // classes 232 and 220
  std::string ordered = "x";
  for (int i = 0; i < 1 << 17; ++i) ordered += "\u0323";
  for (int i = 0; i < 1 << 17; ++i) ordered += "\u0315";
  EXPECT_TRUE(to_nfc(text) == ordered);
}

TEST(UnicodeTables, AreAscendingAndKeepLengths) {
  char32_t last = 0;
  for (const StandIn& row : class_stand_ins()) {
    ASSERT_TRUE(row.first > last && row.first <= row.last) << std::hex << static_cast<std::uint32_t>(row.first);
    std::string from;
    std::string to;
    append_utf8(from, row.first);
    append_utf8(to, row.stand_in);
    EXPECT_EQ(from.size(), to.size()) << std::hex << static_cast<std::uint32_t>(row.first);
    EXPECT_EQ(class_stand_in(row.stand_in), row.stand_in);
    EXPECT_EQ(class_stand_in(row.last), row.stand_in);
    last = row.last;
  }
  EXPECT_EQ(class_stand_in('a'), U'a');
  EXPECT_EQ(class_stand_in(0x31350), class_stand_in(0x323AF)) << "ideographs of Unicode 15";
}

}  // namespace
}  // namespace purekv
