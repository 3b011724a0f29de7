#!/usr/bin/env bash
# House rules: include order of the layers, format, clang-tidy. `--fast` leaves clang-tidy out.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 tools/check_layers.py
mapfile -t sources < <(git ls-files 'include/*.h' 'src/*.h' 'src/*.cpp' 'apps/*.h' 'apps/*.cpp' 'tests/*.h' 'tests/*.cpp' 'bench/*.h' 'bench/*.cpp' 'examples/*.cpp')
clang-format-16 --dry-run --Werror "${sources[@]}"
python3 tools/check_style.py
[ "${1:-}" = "--fast" ] && exit 0
cmake --preset tidy >/dev/null
mapfile -t units < <(git ls-files 'src/*.cpp' 'apps/*.cpp')
printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy-16 --quiet -p build/tidy
