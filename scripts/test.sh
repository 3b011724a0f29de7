#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test that needs no GPU. Exit 0 only if all passed.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install_deps.sh --tests
venv=build/venv
if ! cmp -s tests/requirements.txt "$venv/installed"; then
  python3 -m venv --clear "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$venv/installed"
fi
cmake --preset ci -DPython3_EXECUTABLE="$PWD/$venv/bin/python"
cmake --build --preset ci
ctest --preset ci
