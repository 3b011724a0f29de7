#!/usr/bin/env python3
"""Writes src/text/unicode_tables.cpp: where Unicode versions make the tokenizer's libraries differ from the reference.

The reference is the PyPI package `tokenizers` 0.23: its regex engine classifies by Unicode 16, its NFC is that of
Unicode 9. Debian 12 and Ubuntu 24.04 ship a PCRE2 of Unicode 14 and a utf8proc of Unicode 15 or 15.1; later ones
are ahead of 16. Needs a Python whose `unicodedata` is 14.0 (3.11), `tokenizers`, and `unicodedata2` of any later
version, which names the code points that libraries to come will know.
"""

import argparse
import pathlib
import unicodedata

import unicodedata2
from tokenizers import Regex, normalizers, pre_tokenizers

CATEGORIES = ("Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn").split()
CODES = [code for code in range(0x110000) if not 0xD800 <= code < 0xE000]
# Per category: code points of two, three and four bytes (where it has one) that have had it since before Unicode 14.
STAND_INS = {
    "Lu": (0xC0, 0x13A0, 0x10400), "Ll": (0xDF, 0x1D00, 0x1D41A), "Lm": (0x2EC, 0x1D2C, 0x16B40),
    "Lo": (0x5D0, 0x1200, 0x10280), "Mn": (0x5B0, 0x20D0, 0x1D167), "Mc": (0x903, 0x903, 0x1D165),
    "Nd": (0x660, 0x966, 0x104A0), "Nl": (0x2160, 0x2160, 0x10140), "No": (0xB2, 0x2070, 0x10107),
    "Pd": (0x58A, 0x2010, 0x10EAD), "Po": (0xA1, 0x2016, 0x10100), "Sm": (0xAC, 0x2044, 0x1D6C1),
    "Sc": (0xA2, 0x20A0, 0x1E2FF), "Sk": (0xA8, 0x1FBD, 0x1F3FB), "So": (0xA6, 0x2100, 0x10137),
    "Cf": (0xAD, 0x200B, 0x110BD), "Cn": (0x378, 0xFFFF, 0x10FFFF),
}
MARK_240, MARK_1 = "\u0345", "\u0334"
HEADER = """// Made by tools/make_unicode_tables.py; change it there.
#include "text/unicode_tables.h"

#include <array>

namespace purekv {
namespace {

// clang-format off
"""
FOOTER = """
// clang-format on

}  // namespace

std::span<const StandIn> class_stand_ins() { return kClassStandIns; }

std::span<const CodeRange> inert_under_nfc() { return kInertUnderNfc; }

}  // namespace purekv
"""


def reference_categories() -> dict[int, str]:
    """The category of every code point that the reference's regex engine gives it."""
    category = {}
    for name in CATEGORIES:
        split = pre_tokenizers.Split(Regex(rf"\p{{{name}}}"), "removed")
        for code in CODES:
            if code not in category and not split.pre_tokenize_str(chr(code)):
                category[code] = name
    return category


def utf8_length(code: int) -> int:
    return len(chr(code).encode())


def class_stand_ins() -> dict[int, int]:
    """Code point -> stand-in, for all that changed class between Unicode 14 and the newest version known here."""
    reference = reference_categories()
    table = {}
    for code in CODES:
        versions = {unicodedata.category(chr(code)), unicodedata2.category(chr(code))}
        if versions != {reference[code]}:
            table[code] = STAND_INS[reference[code]][utf8_length(code) - 2]
    # PCRE2 counts the Mongolian vowel separator as \s, which Unicode dropped in 6.3.
    table[0x180E] = STAND_INS["Cf"][1]
    for code, stand_in in table.items():
        assert utf8_length(code) == utf8_length(stand_in), (hex(code), hex(stand_in))
        assert stand_in not in table and reference[stand_in] == reference[code], (hex(code), hex(stand_in))
    return table


def inert_under_nfc() -> set[int]:
    """Code points whose decomposition or combining class the reference does not know, and starters of the former."""
    nfc, nfd = normalizers.NFC(), normalizers.NFD()
    found = set()
    for code in CODES:
        text = chr(code)
        for probe in (text, MARK_240 + text, text + MARK_1, text + MARK_240, MARK_1 + text):
            if nfc.normalize_str(probe) != unicodedata2.normalize("NFC", probe) or (
                    nfd.normalize_str(probe) != unicodedata2.normalize("NFD", probe)):
                found.add(code)
    for code in sorted(found):
        if unicodedata2.decomposition(chr(code)):
            starter = ord(unicodedata2.normalize("NFD", chr(code))[0])
            assert unicodedata2.age(starter) > 9 if hasattr(unicodedata2, "age") else starter > 0x10000, hex(starter)
            found.add(starter)
    return found


def ranges(codes: dict) -> list[tuple]:
    """(first, last, value) of runs of neighbours with one value."""
    runs = []
    for code in sorted(codes):
        if runs and runs[-1][1] == code - 1 and runs[-1][2] == codes[code]:
            runs[-1] = (runs[-1][0], code, codes[code])
        else:
            runs.append((code, code, codes[code]))
    return runs


def table(name: str, kind: str, rows: list[str]) -> str:
    out, line = f"constexpr std::array<{kind}, {len(rows)}> {name} = {{{{\n", "   "
    for row in rows:
        if len(line) + len(row) + 2 > 118:
            out, line = out + line + "\n", "   "
        line += f" {row},"
    return out + line + "\n}};\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "src" / "text" / "unicode_tables.cpp")
    out = parser.parse_args().out
    assert unicodedata.unidata_version == "14.0.0", "needs a Python whose unicodedata is 14.0, such as 3.11"
    classes = [f"{{0x{a:X}, 0x{b:X}, 0x{c:X}}}" for a, b, c in ranges(class_stand_ins())]
    inert = [f"{{0x{a:X}, 0x{b:X}}}" for a, b, _ in ranges(dict.fromkeys(inert_under_nfc(), True))]
    out.write_text(HEADER + table("kClassStandIns", "StandIn", classes) +
                   table("kInertUnderNfc", "CodeRange", inert) + FOOTER)


if __name__ == "__main__":
    main()
