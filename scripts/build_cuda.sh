#!/usr/bin/env bash
# Compiles everything with CUDA for sm_80 and sm_90a, warnings as errors; needs nvcc and no GPU. Where the toolkit has no
# cuBLAS its wheel is fetched from PyPI. Tests that need a GPU skip by name; scripts/gpu.sh runs them where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d /usr/local/cuda/bin ] && PATH="$PATH:/usr/local/cuda/bin"
if ! command -v nvcc >/dev/null; then
  echo "build_cuda.sh: no nvcc on the PATH, CUDA code is not compiled here; install the CUDA toolkit (13 or newer)" >&2
  exit 0
fi
wheels=()
toolkit=$(dirname "$(dirname "$(readlink -f "$(command -v nvcc)")")")
if [ -z "$(find "$toolkit"/ /usr/local/cuda/ -name cublasLt.h 2>/dev/null || true)" ]; then
  folder=build/cuda-wheels
  if [ ! -d "$folder/nvidia" ]; then
    python3 -m venv build/wheel-venv
    build/wheel-venv/bin/pip install -q --no-deps --target "$folder" 'nvidia-cublas==13.1.*'
  fi
  wheels=("-DPUREKV_CUDA_WHEELS=$PWD/$folder")
fi
cmake --preset cuda -DPUREKV_WERROR=ON -DPUREKV_BENCH=OFF "${wheels[@]}"
cmake --build --preset cuda --target purekv_app unit_tests
for tests in build/cuda/bin/{device,kernels}_tests; do
  "$tests" --gtest_filter='*Cuda*' --gtest_brief=1
done
