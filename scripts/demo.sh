#!/usr/bin/env bash
# Installs what is missing, builds, and answers the example questions with the whole cache and with a
# fifth of it, side by side.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install_deps.sh
cmake --preset release -DPUREKV_TESTS=OFF -DPUREKV_BENCH=OFF >/dev/null
cmake --build --preset release
exec python3 scripts/demo.py build/release/bin/purekv examples "$@"
