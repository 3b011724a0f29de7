#!/usr/bin/env python3
"""Sizes that the house rules bound: lines a file and lines a function, in src, include and apps.

Files stay under 400 lines, functions under 60, kernels (src/kernels/cpu and cuda) under 250. Exit 1 names each breach.
"""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILE_LINES, FUNCTION_LINES, KERNEL_LINES = 400, 60, 250
NOT_CODE = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.DOTALL)
NOT_FUNCTION = re.compile(r"(struct|class|union|enum|namespace|extern)\b")


def blank(match: re.Match) -> str:
    return re.sub(r"[^\n]", " ", match.group(0))


def functions(text: str):
    """Yields (first line, lines) of every outermost brace block that follows a parameter list."""
    text = NOT_CODE.sub(blank, text)
    level, start = 0, None
    for match in re.finditer(r"[{}]", text):
        if match.group() == "{":
            head = re.split(r"[;{}]", text[max(0, match.start() - 1500):match.start()])[-1].strip()
            is_function = "(" in head and re.search(r"\)[\s\w&:>\-,()<*]*$", head) and not NOT_FUNCTION.match(head)
            if start is None and is_function:
                start = (level, match.start())
            level += 1
        else:
            level -= 1
            if start and level == start[0]:
                yield text.count("\n", 0, start[1]) + 1, text.count("\n", start[1], match.start()) + 1
                start = None


def breaches() -> list[str]:
    found = []
    for folder in ("src", "include", "apps"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
                continue
            text, name = path.read_text(encoding="utf-8"), path.relative_to(ROOT)
            lines = text.count("\n")
            if lines > FILE_LINES:
                found.append(f"{name}: {lines} lines, at most {FILE_LINES}")
            most = KERNEL_LINES if name.parts[:2] == ("src", "kernels") and len(name.parts) > 3 else FUNCTION_LINES
            found += [f"{name}:{at}: a function of {n} lines, at most {most}" for at, n in functions(text) if n > most]
    return found


def main() -> None:
    found = breaches()
    print("\n".join(found) if found else "sizes of files and functions hold")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
