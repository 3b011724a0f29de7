#!/usr/bin/env python3
"""Reads every #include and fails on one that points against the flow (docs/architecture.md).

A file includes only its own directory and the ones listed for it. Exit 1 names each breach.
"""

import pathlib
import re
import sys

ALLOWED = {
    "base": set(),
    "flow": {"base"},
    "device": {"base"},
    "kernels": {"base", "flow", "device"},
    "text": {"base"},
    "media": {"base", "flow"},
    "sparse": {"base", "flow", "device", "kernels"},
    "select": {"base", "flow", "device", "kernels"},
    "cache": {"base", "flow", "device", "kernels"},
    "model": {"base", "flow", "device", "kernels", "cache", "sparse"},
    "engine": {"base", "flow", "device", "kernels", "text", "media", "sparse", "select", "cache", "model"},
}
ROOT = pathlib.Path(__file__).resolve().parent.parent
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def targets(path: pathlib.Path) -> list[str]:
    return INCLUDE.findall(path.read_text(encoding="utf-8"))


def breaches() -> list[str]:
    found = []
    for path in sorted((ROOT / "src").rglob("*")):
        if path.suffix not in {".h", ".cpp", ".cu", ".cuh"}:
            continue
        layer = path.relative_to(ROOT / "src").parts[0]
        for target in targets(path):
            other = target.split("/")[0]
            if other == "purekv" or other == layer:
                continue
            if other not in ALLOWED[layer]:
                found.append(f"{path.relative_to(ROOT)} includes {target}: {layer} may include {sorted(ALLOWED[layer])}")
    for folder in ("apps", "include", "examples"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix not in {".h", ".cpp"}:
                continue
            for target in targets(path):
                if target.split("/")[0] in ALLOWED:
                    found.append(f"{path.relative_to(ROOT)} includes {target}: only include/purekv is open to it")
    return found


def main() -> None:
    found = breaches()
    print("\n".join(found) if found else f"include rule holds over {len(ALLOWED)} layers")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
