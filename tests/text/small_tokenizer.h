#pragma once

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "text/byte_alphabet.h"
#include "text/utf8.h"

namespace purekv::testing {

/// A folder that goes away with its object.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "purekv-text-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path_ = pattern;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() { std::filesystem::remove_all(path_); }

  [[nodiscard]] std::string file() const { return path_ + "/tokenizer.json"; }
  std::string write(const std::string& text) const {
    std::ofstream(file(), std::ios::binary) << text;
    return file();
  }

 private:
  std::string path_;
};

/// Merges as lists; a braced list of pairs of strings would become a JSON object.
using Pairs = std::vector<std::vector<std::string>>;

/// The vocabulary's spelling of one byte.
inline std::string letter(unsigned char byte) {
  std::string text;
  append_utf8(text, kByteAlphabet.letter_of[byte]);
  return text;
}

/// 256 byte tokens (id = byte), "th", "the" and " the" by merges, three added tokens; the shape of Qwen's file.
inline nlohmann::json small_tokenizer() {
  nlohmann::json vocab;
  for (int byte = 0; byte < 256; ++byte) vocab[letter(static_cast<unsigned char>(byte))] = byte;
  vocab["th"] = 256;
  vocab["the"] = 257;
  vocab[letter(' ') + "the"] = 258;
  const auto added = [](int id, const char* content, bool special) {
    return nlohmann::json{{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
                          {"rstrip", false}, {"normalized", false}, {"special", special}};
  };
  const nlohmann::json split = {
      {"type", "Split"},
      {"pattern",
       {{"Regex",
         R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}}},
      {"behavior", "Isolated"},
      {"invert", false}};
  const nlohmann::json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  return {
      {"version", "1.0"},
      {"added_tokens", {added(259, "<|end|>", true), added(260, "<|end|>>", true), added(261, "<tool>", false)}},
      {"normalizer", {{"type", "NFC"}}},
      {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", Pairs{{"t", "h"}, {"th", "e"}, {letter(' '), "the"}}}}}};
}

}  // namespace purekv::testing
