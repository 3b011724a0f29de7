#!/usr/bin/env bash
# Builds with CUDA, without network or media libraries; then tests, benchmarks, or both (the default):
#
#   scripts/gpu.sh [tests|bench|all] [FLAGS OF bench/gpu_bench.py]
#
# Tests run plainly, then under compute-sanitizer. Results go to $OUT, else bench/results/. Environment:
#   PUREKV_SANITIZER_FILTER   gtest filter of what the sanitizer runs (default: every GPU test but the demo model's questions)
#   PUREKV_SANITIZER_SECONDS  most seconds for one program under one tool (default 300)
#   PUREKV_SANITIZER_JOBS     shards of a program under the sanitizer at a time (default 8, at most half the cores)
#   PUREKV_GPU_SECONDS        seconds for all of it; rows that no longer fit are skipped by name (default: no limit)
# Exit 0: all passed; 1: something failed; 4: no compiler or no GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
what=all
case "${1:-}" in
  tests | bench | all) what=$1; shift ;;
  "" | --*) ;;
  *) echo "gpu.sh: $1 is unknown; give tests, bench or all" >&2; exit 2 ;;
esac
[ -d /usr/local/cuda/bin ] && PATH="$PATH:/usr/local/cuda/bin"
lacks() { echo "gpu.sh: $1" >&2; exit 4; }
command -v nvcc >/dev/null || lacks "no nvcc on the PATH; install the CUDA toolkit (13 or newer)"
nvidia-smi -L >/dev/null 2>&1 || lacks "nvidia-smi finds no GPU; run this on a machine with one"
out=${OUT:-bench/results}
logs=build/cuda-bare/logs
bin=build/cuda-bare/bin
mkdir -p "$out" "$logs"
table=() failures=0 passed_plainly=0

build() {
  local options=(-DPUREKV_BENCH=OFF -DPUREKV_TESTS=ON) targets=(purekv_app unit_tests)
  [ "$what" = bench ] && options=(-DPUREKV_BENCH=OFF -DPUREKV_TESTS=OFF) targets=(purekv_app)
  cmake --preset cuda-bare "${options[@]}" >"$logs/configure.log" 2>&1 || { cat "$logs/configure.log" >&2; exit 1; }
  cmake --build --preset cuda-bare --target "${targets[@]}" >"$logs/build.log" 2>&1 ||
    { grep -E -B2 -A8 'error|FAILED' "$logs/build.log" | head -n 80 >&2 || true; exit 1; }
  echo "built in $SECONDS s"
}

# Suites of the files that use the GPU fixture, as a gtest filter.
gpu_suites() {
  grep -rlF support/cuda.h tests --include='*_test.cpp' |
    xargs sed -nE 's/^TEST_[FP]\((\w+),.*/*\1.*/p' | sort -u | paste -sd:
}

# run NAME COMMAND...: runs tests and adds a line to the table. A crash, a report of the sanitizer and a
# time-out are failures of their own.
run() {
  local name=$1 log rc=0 begin=$SECONDS passed failed skipped
  shift
  log="$logs/${name// /_}.log"
  "$@" >"$log" 2>&1 || rc=$?
  passed=$(grep -cE '^\[       OK \]' "$log" || true)
  failed=$(grep -cE '^\[  FAILED  \] .*\([0-9]+ ms\)$' "$log" || true)
  skipped=$(grep -cE '^\[  SKIPPED \] .*\([0-9]+ ms\)$' "$log" || true)
  [ $((passed + failed + skipped)) -eq 0 ] && [ $rc -eq 0 ] && return  # no GPU test in this program
  if [ $rc -ne 0 ] && [ "$failed" -eq 0 ]; then failed=1; fi
  if [ $rc -ne 0 ]; then
    failures=1
    echo "gpu.sh: $name ended with $rc; $log has:" >&2
    grep -E '^\[  FAILED|Failure$|=========.*(SUMMARY|Invalid|hazard|Program hit)|error' "$log" | head -n 20 >&2 || true
    tail -n 3 "$log" >&2
  fi
  case "$name" in *check) ;; *) passed_plainly=$((passed_plainly + passed)) ;; esac
  table+=("$(printf '%-34s %7d %7d %8d %8d' "$name" "$passed" "$failed" "$skipped" $((SECONDS - begin)))")
}

# sanitize PROGRAM TOOL FILTER SECONDS: shards of a test program under compute-sanitizer at once. What they print follows
# one another in the order of the shards; the exit status is the largest. CUDA's errors that the program turns into its own
# (out of memory) are no reports, and of racecheck's only those about our kernels: cuBLAS's (nvjet) it does not understand,
# and told to leave them out it breaks them.
sanitize() {
  local program=$1 tool=$2 filter=$3 seconds=$4 jobs=${PUREKV_SANITIZER_JOBS:-8} rc=0 shard tests dir pids=()
  local options=(--tool "$tool" --report-api-errors no)
  [ "$tool" = racecheck ] || options+=(--error-exitcode 9)
  tests=$("$program" --gtest_list_tests --gtest_filter="$filter" | grep -c '^  ')
  [ "$jobs" -le $(($(nproc) / 2)) ] || jobs=$((($(nproc) + 1) / 2))
  [ "$jobs" -le "$tests" ] || jobs=$tests  # a shard without tests is an error to the tool
  dir=$(mktemp -d)
  for ((shard = 0; shard < jobs; ++shard)); do
    GTEST_TOTAL_SHARDS=$jobs GTEST_SHARD_INDEX=$shard timeout -k 5 "$seconds" compute-sanitizer "${options[@]}" \
      "$program" --gtest_filter="$filter" --gtest_color=no >"$dir/$shard" 2>&1 &
    pids+=($!)
  done
  for ((shard = 0; shard < jobs; ++shard)); do
    local one=0
    wait "${pids[$shard]}" || one=$?
    if [ "$tool" = racecheck ] && [ -n "$(grep 'Race reported' "$dir/$shard" | grep -v nvjet)" ]; then one=9; fi
    [ $one -le $rc ] || rc=$one
    cat "$dir/$shard"
  done
  rm -r "$dir"
  return $rc
}

# The demo model's prompts as ids and frames, for the tests that ask both backends; they are skipped by name without.
record_prompts() {
  [ -f build/prompts/prompts.json ] && return
  PYTHONPATH=training python3 training/record_prompts.py --out build/prompts --per-task 25 >"$logs/prompts.log" 2>&1 ||
    echo "gpu.sh: no prompts recorded ($logs/prompts.log); it takes a python3 with torch and tokenizers" >&2
}

run_tests() {
  local filter part program tool seconds=${PUREKV_SANITIZER_SECONDS:-300} parts
  local counts_memory="*.OutOfMemoryIsAnErrorAndTheDeviceStaysUsable"
  filter=$(gpu_suites)
  [ -n "$filter" ] || { echo "gpu.sh: no test uses support/cuda.h" >&2; exit 1; }
  # One test counts the card's free memory: it runs while no other does.
  parts=("$filter-*DemoTest.*:$counts_memory" "$counts_memory")
  [ -z "${PUREKV_SANITIZER_FILTER:-}" ] || parts=("$PUREKV_SANITIZER_FILTER")
  record_prompts
  for program in "$bin"/*_tests; do
    run "$(basename "$program")" "$program" --gtest_filter="$filter" --gtest_color=no
  done
  for tool in memcheck racecheck; do
    command -v compute-sanitizer >/dev/null || { echo "gpu.sh: no compute-sanitizer, left out" >&2; break; }
    for program in "$bin"/*_tests; do
      for part in "${parts[@]}"; do
        # Programs without a matching test are not worth a start of the tool.
        "$program" --gtest_list_tests --gtest_filter="$part" | grep -q '^  ' || continue
        run "$(basename "$program")$([ "$part" = "${parts[0]}" ] || echo " memory") $tool" \
          sanitize "$program" "$tool" "$part" "$seconds"
      done
    done
  done
}

run_bench() {
  local budget=()
  [ -z "${PUREKV_GPU_SECONDS:-}" ] || budget=(--budget-seconds $((PUREKV_GPU_SECONDS - SECONDS)))
  PYTHONUNBUFFERED=1 python3 bench/gpu_bench.py --program "$bin/purekv" --out "$out" "${budget[@]}" "$@" || failures=1
}

build
[ "$what" = bench ] || run_tests
[ "$what" = tests ] || run_bench "$@"
if [ ${#table[@]} -gt 0 ]; then
  echo
  { nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
    printf '%-34s %7s %7s %8s %8s\n' what passed failed skipped seconds
    printf '%s\n' "${table[@]}"; } | tee "$out/gpu_tests.txt"
fi
if [ "$what" != bench ] && [ "$passed_plainly" -eq 0 ]; then
  grep -hm1 -A1 Skipped "$logs"/*_tests.log | tail -n 1 >&2 || true
  lacks "every GPU test was skipped; the line above says why"
fi
exit $failures
