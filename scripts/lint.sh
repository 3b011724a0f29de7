#!/usr/bin/env bash
# House rules: include order of the layers, format, clang-tidy. `--fast` leaves clang-tidy out.
set -euo pipefail
cd "$(dirname "$0")/.."
python3 tools/check_layers.py
mapfile -t sources < <(git ls-files 'include/*.h' 'src/*.h' 'src/*.cpp' 'src/*.cu' 'src/*.cuh' 'apps/*.h' 'apps/*.cpp' 'tests/*.h' 'tests/*.cpp' 'bench/*.h' 'bench/*.cpp' 'examples/*.cpp')
clang-format-16 --dry-run --Werror "${sources[@]}"
python3 tools/check_style.py
[ "${1:-}" = "--fast" ] && exit 0
cmake --preset tidy >/dev/null
# Files of the CUDA backend are in no compile database of a build without it; nvcc and g++ warnings are errors there.
mapfile -t units < <(git ls-files 'src/*.cpp' 'apps/*.cpp' ':!src/*/cuda/*')
printf '%s\n' "${units[@]}" | xargs -P "$(nproc)" -n 4 clang-tidy-16 --quiet -p build/tidy
