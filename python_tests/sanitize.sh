#!/usr/bin/env bash
# The op tests, refused calls included, under the address and undefined-behaviour sanitizers.
#
#   bash python_tests/sanitize.sh [PYTEST ARGUMENT...]      (default: all of python_tests/ops)
#
# Builds the extension without CUDA and with both sanitizers into a temporary folder, runs the tests
# there beside an ordinary torch, and fails on any failed test and on any report. The CUDA sources
# are compiled with the undefined-behaviour sanitizer in their emulation, which checks bounds itself.
# Needs gcc with libasan and libubsan, and what pip needs to build the package.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cp -r CMakeLists.txt csrc medad_fast python_tests pyproject.toml "$work"
rm -f "$work"/medad_fast/_C*.so
cmake -S "$work" -B "$work/build" -G Ninja -DMEDAD_CUDA=off -DMEDAD_SANITIZE=on \
  -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 -DCMAKE_CXX_COMPILER=g++ \
  -DPython_EXECUTABLE="$(command -v "$python")" -DSKBUILD_PROJECT_VERSION=0 \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$work/log" || { cat "$work/log"; exit 1; }
cmake --build "$work/build" >"$work/log" || { cat "$work/log"; exit 1; }
cp "$work"/build/_C*.so "$work/medad_fast"
echo "sanitized build: $SECONDS s"

[ $# -gt 0 ] || set -- python_tests/ops -k "not spawn"  # each worker would load torch, slowly
cd "$work"
status=0
# Python and torch never give all their memory back, so leaks are not looked for. An allocation that
# cannot be had must come back as an error, as it does without sanitizers.
LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" \
  ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1:log_path=$work/report" \
  UBSAN_OPTIONS="print_stacktrace=1:log_path=$work/report" \
  MEDAD_EMULATION_FLAGS="-fsanitize=undefined,float-cast-overflow -fno-sanitize=vptr" \
  "$python" -m pytest -q -p no:cacheprovider -p no:faulthandler "$@" || status=$?

# An error stands in such a line; ASan also warns that it does not know the emulation's threads, which
# are contexts of one thread.
reports=$(grep -lE 'ERROR: |runtime error: |SUMMARY: ' "$work"/report.* 2>/dev/null | sort || true)
for report in $reports; do cat "$report"; done
echo "$(wc -w <<<"$reports") processes reported something; tests ended with $status; $SECONDS s"
[ -z "$reports" ] && exit "$status" || exit 1
