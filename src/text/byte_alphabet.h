#pragma once

#include <array>
#include <cstdint>

namespace purekv {

/// The printable stand-in of each byte in vocab and merges (GPT-2's alphabet): printable Latin-1 bytes stand for
/// themselves, the other 68 take U+0100 and up, in order.
struct ByteAlphabet {
  static constexpr char32_t kEnd = 0x144;  ///< one past the last letter

  std::array<char32_t, 256> letter_of{};
  std::array<std::int16_t, kEnd> byte_of{};  ///< -1 where the code point is no letter of the alphabet

  constexpr ByteAlphabet() {
    byte_of.fill(-1);
    char32_t next = 0x100;
    for (std::size_t byte = 0; byte < 256; ++byte) {
      const bool is_printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      const char32_t letter = is_printable ? static_cast<char32_t>(byte) : next++;
      letter_of[byte] = letter;
      byte_of[letter] = static_cast<std::int16_t>(byte);
    }
  }
};

inline constexpr ByteAlphabet kByteAlphabet;

}  // namespace purekv
