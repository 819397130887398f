#!/usr/bin/env bash
# One built extension beside several torch releases, without a rebuild (slow: downloads them).
#
#   bash python_tests/cross_torch.sh 2.13.0 2.11.0
#
# Builds one wheel, installs that same file into a fresh environment per torch release, and runs
# the op tests there. On machines without a GPU the newest wheels may need several GB each.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -ge 2 ] || { echo "usage: $0 TORCH_VERSION TORCH_VERSION [...]" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m pip wheel -q --no-deps -w "$work" .
wheel=$(ls "$work"/medad_fast-*.whl)
cp -r python_tests csrc pyproject.toml "$work"  # the tests without the package: they see the wheel

for version in "$@"; do
  python3 -m venv "$work/venv"
  "$work/venv/bin/pip" install -q "torch==$version"
  grep -v '^torch==' constraints.txt >"$work/constraints.txt"
  "$work/venv/bin/pip" install -q -c "$work/constraints.txt" "$wheel" pytest hypothesis "torch==$version"
  extension=$("$work/venv/bin/python" -c 'from medad_fast import _C; print(_C.__file__)')
  echo "torch $("$work/venv/bin/python" -c 'import torch; print(torch.__version__)'): $(sha256sum <"$extension" | cut -c1-16)"
  (cd "$work" && venv/bin/python -m pytest -q -p no:cacheprovider python_tests/ops)
  rm -rf "$work/venv"
done
