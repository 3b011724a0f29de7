#!/usr/bin/env bash
# Installs what a build needs and lacks, on Debian 12 and Ubuntu 24.04. `--tests` adds what the tests
# need, `--lint` the checkers. Uses sudo only where the caller is not root.
set -euo pipefail
packages=(build-essential cmake ninja-build pkg-config libfmt-dev nlohmann-json3-dev libcli11-dev
  libpcre2-dev libutf8proc-dev libavformat-dev libavcodec-dev libavutil-dev libswscale-dev
  libjpeg-dev libpng-dev libwebp-dev python3)
for flag in "$@"; do
  case "$flag" in
    --tests) packages+=(libgtest-dev python3-venv ffmpeg) ;;
    --lint) packages+=(clang-format-16 clang-tidy-16 clang-16) ;;
    *) echo "install_deps.sh: unknown flag $flag; known are --tests and --lint" >&2; exit 2 ;;
  esac
done
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
command -v apt-get >/dev/null || { echo "install_deps.sh: no apt-get here; install by hand: ${missing[*]}" >&2; exit 4; }
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo)
echo "installing ${missing[*]}" >&2
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
