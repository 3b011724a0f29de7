#include "text/bpe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>

#include "purekv/error.h"

namespace purekv {
namespace {

/// A random vocabulary over a few letters: merges in rank order, each of two tokens known before it.
struct RandomVocabulary {
  std::vector<std::string> tokens;  ///< id -> bytes
  std::map<std::pair<int, int>, Merge> merges;

  RandomVocabulary(int letters, int count, std::mt19937& random) {
    for (int i = 0; i < letters; ++i) tokens.emplace_back(1, static_cast<char>('a' + i));
    for (int rank = 0; rank < count; ++rank) {
      const auto pick = [&] { return static_cast<int>(random() % tokens.size()); };
      const int left = pick();
      const int right = pick();
      const std::string joined = tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(right)];
      if (joined.size() > 8 || merges.count({left, right}) > 0) continue;
      auto id = static_cast<std::int32_t>(std::find(tokens.begin(), tokens.end(), joined) - tokens.begin());
      if (id == static_cast<std::int32_t>(tokens.size())) tokens.push_back(joined);
      merges[{left, right}] = {rank, id};
    }
  }

  [[nodiscard]] BpeTables tables() const {
    BpeTables out;
    out.byte_ids.fill(-1);
    out.merges = FlatMap<std::uint64_t, Merge>(merges.size());
    for (std::size_t id = 0; id < tokens.size(); ++id)
      if (tokens[id].size() == 1)
        out.byte_ids[static_cast<unsigned char>(tokens[id][0])] = static_cast<std::int32_t>(id);
    for (const auto& [pair, merge] : merges) out.merges.emplace(pair_key(pair.first, pair.second), merge);
    return out;
  }

  /// The definition: look at all neighbours, merge the leftmost of the lowest rank, again.
  [[nodiscard]] std::vector<std::int32_t> encode_slowly(const std::string& word) const {
    std::vector<std::int32_t> ids;
    for (const char c : word) ids.push_back(c - 'a');
    while (true) {
      const Merge* best = nullptr;
      std::size_t at = 0;
      for (std::size_t i = 0; i + 1 < ids.size(); ++i) {
        const auto it = merges.find({ids[i], ids[i + 1]});
        if (it == merges.end() || (best != nullptr && it->second.rank >= best->rank)) continue;
        best = &it->second;
        at = i;
      }
      if (best == nullptr) return ids;
      ids[at] = best->id;
      ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(at) + 1);
    }
  }
};

TEST(Bpe, EqualsItsDefinitionOnRandomVocabularies) {
  std::mt19937 random(3);
  for (int round = 0; round < 400; ++round) {
    const int letters = 1 + static_cast<int>(random() % 4);
    const RandomVocabulary vocabulary(letters, static_cast<int>(random() % 40), random);
    const Bpe bpe(vocabulary.tables());
    for (const std::size_t size : {0, 1, 2, 3, 7, 16, 40}) {
      std::string word;
      for (std::size_t i = 0; i < size; ++i)
        word += static_cast<char>('a' + static_cast<int>(random() % static_cast<unsigned>(letters)));
      std::vector<std::int32_t> ids;
      bpe.encode(word, ids);
      ASSERT_EQ(ids, vocabulary.encode_slowly(word)) << word << " round " << round;
    }
  }
}

TEST(Bpe, AMebibyteOfOneWordKeepsEveryByte) {
  std::mt19937 random(4);
  const RandomVocabulary vocabulary(3, 60, random);
  const Bpe bpe(vocabulary.tables());
  std::string word;
  for (int i = 0; i < 1 << 20; ++i) word += static_cast<char>('a' + random() % 3);
  std::vector<std::int32_t> ids;
  bpe.encode(word, ids);
  std::string joined;
  for (const std::int32_t id : ids) joined += vocabulary.tokens[static_cast<std::size_t>(id)];
  EXPECT_TRUE(joined == word);
}

TEST(Bpe, AWholeWordWinsWhereMergesAreIgnored) {
  std::mt19937 random(5);
  BpeTables tables = RandomVocabulary(2, 0, random).tables();
  tables.whole["abba"] = 77;
  const Bpe bpe(std::move(tables));
  std::vector<std::int32_t> ids;
  bpe.encode("abba", ids);
  bpe.encode("abb", ids);
  EXPECT_EQ(ids, (std::vector<std::int32_t>{77, 0, 1, 1}));
}

TEST(Bpe, AByteThatTheVocabularyLacksIsNamed) {
  std::mt19937 random(6);
  const Bpe bpe(RandomVocabulary(2, 0, random).tables());
  std::vector<std::int32_t> ids;
  try {
    bpe.encode("ab\xE4", ids);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInput);
    EXPECT_NE(std::string(error.what()).find("0xE4"), std::string::npos) << error.what();
  }
}

TEST(FlatMap, HoldsWhatWasPut) {
  std::mt19937_64 random(7);
  FlatMap<std::uint64_t, int> map(1000);
  std::map<std::uint64_t, int> twin;
  for (int i = 0; i < 1000; ++i) {
    const std::uint64_t key =
        pair_key(static_cast<std::int32_t>(random() % 50), static_cast<std::int32_t>(random() % 50));
    EXPECT_EQ(map.emplace(key, i).second, twin.emplace(key, i).second);
  }
  for (std::int32_t a = 0; a < 50; ++a)
    for (std::int32_t b = 0; b < 50; ++b) {
      const auto it = twin.find(pair_key(a, b));
      const int* const value = map.find(pair_key(a, b));
      ASSERT_EQ(value != nullptr, it != twin.end());
      if (value != nullptr) {
        EXPECT_EQ(*value, it->second);
      }
    }
}

}  // namespace
}  // namespace purekv
