#include "text/pretokenizer.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "purekv/error.h"
#include "text/added_tokens.h"
#include "text/pattern_check.h"

namespace purekv {
namespace {

using Pieces = std::vector<std::string_view>;

Pieces split(const std::string& pattern, std::string_view text) {
  Pieces pieces;
  SplitPattern(pattern, "pattern").split(text, pieces);
  return pieces;
}

TEST(SplitPattern, MatchesAndWhatLiesBetween) {
  EXPECT_EQ(split(R"(\p{L}+)", "ab 1cd"), (Pieces{"ab", " 1", "cd"}));
  EXPECT_EQ(split(R"(\p{L}+)", "12"), (Pieces{"12"}));
  EXPECT_EQ(split(R"(\s+(?!\S)|\s+)", "a   b "), (Pieces{"a", "  ", " ", "b", " "}));
  EXPECT_EQ(split("x*", "axxb"), (Pieces{"a", "xx", "b"})) << "an empty match splits, nothing more";
  EXPECT_EQ(split("(?=b)", "abab"), (Pieces{"a", "ba", "b"}));
  EXPECT_EQ(split("x", ""), Pieces{});
}

TEST(SplitPattern, ClassifiesByUnicode16) {
  EXPECT_EQ(split(R"(\p{L}+)", "a\U00031350\u1C89b!"), (Pieces{"a\U00031350\u1C89b", "!"}));
  EXPECT_EQ(split(R"(\p{N})", "\U00010D40\U00010D41"), (Pieces{"\U00010D40", "\U00010D41"}));
  EXPECT_EQ(split(R"(\s+)", "a\u180E\u3000b"), (Pieces{"a\u180E", "\u3000", "b"}));
}

TEST(SplitPattern, RefusesWhatItCannotRead) {
  for (const char* pattern : {R"(\w+)",  R"(\bx)", R"(\h)",     R"(\v)", R"([[:alpha:]])", "[a-z&&b]",  R"(\p{Han})",
                              R"(\p{L)", "(?m:x)", "(*ACCEPT)", "x{,3}", "x{1}+",          R"(\x{41})", R"(\u0041)",
                              "[]a]",    "\\",     "(",         "[a",    "x{3,1}",         "a**b"}) {
    try {
      split(pattern, "text");
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInput) << pattern;
    }
  }
  for (const char* pattern :
       {R"([^\r\n\p{L}\p{^N}\P{Lu}]?\.\[)", "(?:a|(?i:b)|(?>c)|(?<=d)|(?<!e)|(?=f)|(?!g))", "a{1,3}"})
    EXPECT_EQ(find_ambiguous_construct(pattern), "") << pattern;
}

TEST(PreTokenizer, PrefixSpaceGoesToEveryPieceWithoutOne) {
  PreTokenizer pre_tokenizer;
  pre_tokenizer.add_split(SplitPattern(R"(\s?\p{L}+)", "pattern"));
  pre_tokenizer.add_prefix_space();
  EXPECT_EQ(pre_tokenizer.split("ab cd1").words, (Pieces{" ab", " cd", " 1"}));
  EXPECT_EQ(pre_tokenizer.split("").words, Pieces{});
}

std::string found(const AddedTokenFinder& finder, std::string_view text) {
  std::vector<TextPart> parts;
  finder.split(text, parts);
  std::string out;
  for (const TextPart& part : parts) out += part.id < 0 ? fmt::format("[{}]", part.text) : fmt::format("<{}>", part.id);
  return out;
}

AddedToken added(std::int32_t id, const std::string& pattern) {
  AddedToken token;
  token.id = id;
  token.pattern = pattern;
  return token;
}

TEST(AddedTokenFinder, LeftmostThenLongest) {
  AddedTokenFinder finder;
  finder.add(added(1, "<a>"));
  finder.add(added(2, "<a><b>"));
  finder.add(added(3, "a><"));
  EXPECT_EQ(found(finder, "<a><b>x<a><"), "<2>[x]<1>[<]");
  EXPECT_EQ(found(finder, "<<a>"), "[<]<1>");
  EXPECT_EQ(found(finder, "<a"), "[<a]");
  EXPECT_EQ(found(finder, ""), "");
  EXPECT_EQ(found(AddedTokenFinder(), "<a>"), "[<a>]");
}

TEST(AddedTokenFinder, FlagsAct) {
  AddedTokenFinder finder;
  AddedToken token = added(1, "x");
  token.single_word = true;
  finder.add(token);
  token = added(2, "#");
  token.lstrip = true;
  finder.add(token);
  token = added(3, "@");
  token.rstrip = true;
  finder.add(token);
  EXPECT_EQ(found(finder, "x ax x\u0301 -x-"), "<1>[ ax x\u0301 -]<1>[-]");
  EXPECT_EQ(found(finder, "\u24B6x \u200Dx \u00AAx"), "[\u24B6x \u200Dx \u00AAx]")
      << "circled letters are word characters";
  EXPECT_EQ(found(finder, "a \u3000# b"), "[a]<2>[ b]");
  EXPECT_EQ(found(finder, "a @ \u2028\nb"), "[a ]<3>[b]");
  EXPECT_EQ(found(finder, "@  #"), "<3><2>");
}

}  // namespace
}  // namespace purekv
