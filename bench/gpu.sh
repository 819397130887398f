#!/usr/bin/env bash
# What only a GPU can show, in one go and under ten minutes; a failed step stops nothing.
#
#   bash bench/gpu.sh [--dry-run] [--only STEP,STEP...] [FOLDER]
#
# Builds for the GPU present; runs all tests, those that need a GPU included; compute-sanitizer
# (memcheck, racecheck, initcheck, synccheck) over a call of every op; and the benchmarks. FOLDER is
# $OUT if that is set, else gpu-results. It gets summary.json (how each step ended, and where the
# first mistakes are), environment.json (device, clocks, versions), bench.jsonl, tests.xml,
# gpu-tests.xml and log.txt. Exit status: 0 where all went well, 1 where a step did not, 3 where
# there is no GPU.
#
# Steps: build, gpu-tests, tests, memcheck, racecheck, initcheck, synccheck, bench. Nothing is
# installed and nothing is fetched: python3 ($PYTHON) needs torch, pytest, pybind11, cmake and ninja.
# --dry-run goes through every step on the CPU, to try this script where there is no GPU.
set -uo pipefail
cd "$(dirname "$0")/.."

dry= only= folder=
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=yes ;;
    --only) only=,$2, && shift ;;
    -*) echo "usage: $0 [--dry-run] [--only STEP,STEP...] [FOLDER]" >&2; exit 2 ;;
    *) folder=$1 ;;
  esac
  shift
done
out=${folder:-${OUT:-gpu-results}}
mkdir -p "$out" && out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$work"' EXIT
export PYTHONUNBUFFERED=1
total=${MEDAD_GPU_SECONDS:-570}  # for all steps
rm -f "$out"/{summary.json,environment.json,bench.jsonl,tests.xml,gpu-tests.xml,log.txt}
mkdir "$work/logs"

left() { echo $((total - SECONDS)); }

wanted() { [ -z "$only" ] || [[ $only == *,$1,* ]]; }

# step NAME LIMIT COMMAND...: run it in the copy of the tree, for LIMIT seconds at most.
step() {
  local name=$1 limit=$2 begin=$SECONDS status=0
  shift 2
  wanted "$name" || return 0
  [ "$limit" -lt "$(left)" ] || limit=$(left)
  if [ "$limit" -lt 5 ]; then
    status=124
    echo "no time left for it" >"$work/logs/$name"
  else
    (cd "$work/tree" && timeout -k 5 "$limit" "$@") >"$work/logs/$name" 2>&1 </dev/null || status=$?
  fi
  echo "$name $status $((SECONDS - begin)) $limit" >>"$work/steps"
  printf '%-10s %-9s %4d s   %s\n' "$name" "$( ((status)) && echo "status $status" || echo ok)" \
    $((SECONDS - begin)) "$(grep -v '^ *$' "$work/logs/$name" | tail -n 1 | cut -c 1-120)"
}

"$python" -c 'import torch, pytest' || { echo "$python has no torch or no pytest: set PYTHON"; exit 2; }

# --- what this machine is -------------------------------------------------------------------------
"$python" - "$out/environment.json" "$dry" <<'PYTHON'
import datetime, importlib.util, json, os, pathlib, platform, re, subprocess, sys, tomllib

def said(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None

import torch

fields = "name,driver_version,compute_cap,memory.total,memory.used,utilization.gpu,temperature.gpu"
fields += ",power.limit,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,mig.mode.current"
table = said("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")
project = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["project"]
needed = project["dependencies"] + project["optional-dependencies"]["test"] + ["nilearn"]
module = {"scikit-learn": "sklearn", "scikit-image": "skimage", "pillow": "PIL", "pyyaml": "yaml"}
module |= {"pytest-xdist": "xdist", "medad-fast": "medad_fast"}
names = {re.match(r"[\w-]+", requirement)[0] for requirement in needed}
names = {module.get(name, name) for name in names}
sanitizer = said("compute-sanitizer", "--version") or ""
environment = {
    "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    "dry_run": bool(sys.argv[2]),
    "commit": said("git", "rev-parse", "HEAD"),
    "gpus": [dict(zip(fields.split(","), row.split(", "))) for row in (table or "").splitlines()],
    "torch_sees_a_gpu": torch.cuda.is_available(),
    "torch": torch.__version__,
    "torch_cuda": torch.version.cuda,
    "python": platform.python_version(),
    "nvcc": ((said("nvcc", "--version") or "").splitlines() or [None])[-1],
    "compute_sanitizer": next((l for l in sanitizer.splitlines() if "Version" in l), None),
    "cpu": platform.processor() or platform.machine(),
    "cpus": os.cpu_count(),
    "load_before": os.getloadavg(),
    "missing_packages": sorted(n for n in names if importlib.util.find_spec(n) is None),
}
if environment["torch_sees_a_gpu"]:
    environment["device"] = str(torch.cuda.get_device_properties(0))
pathlib.Path(sys.argv[1]).write_text(json.dumps(environment, indent=1) + "\n")
PYTHON
gpu=$("$python" -c 'import torch; print(torch.cuda.is_available())')
if [ "$gpu" != True ] && [ -z "$dry" ]; then
  echo "no CUDA device on this machine: nothing was built, run or measured (try --dry-run)"
  echo '{"gpu": null, "steps": [], "ok": false, "why": "no CUDA device on this machine"}' >"$out/summary.json"
  exit 3
fi
if [ -n "$dry" ]; then
  echo "DRY RUN on the CPU: nothing here says anything about a GPU"
fi

# --- build, in a copy, so that the tree stays as it is --------------------------------------------
mkdir "$work/tree"
cp -r CMakeLists.txt pyproject.toml README.md CHANGELOG.md docs csrc medad_fast python_tests bench "$work/tree"
rm -rf "$work"/tree/medad_fast/_C*.so "$work/tree/bench/results/"gpu-*
cat >"$work/tree/build.sh" <<'BUILD'
set -e
python=$1 cuda=$2
export CUDACXX=${CUDACXX:-$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)}
cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DMEDAD_CUDA="$cuda" -DMEDAD_WERROR=ON \
  -DPython_EXECUTABLE="$(command -v "$python")" -DSKBUILD_PROJECT_VERSION=0 \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)"
cmake --build build
cp build/_C*.so medad_fast
"$python" -c 'from medad_fast.ops._native import build_info; print(build_info())'
BUILD
device=cuda cuda=on
[ -z "$dry" ] || { device=cpu cuda=off; }
step build 240 bash build.sh "$python" "$cuda"
if { [ -n "$dry" ] || ! wanted build; } && ! ls "$work"/tree/medad_fast/_C*.so >/dev/null 2>&1; then
  cp medad_fast/_C*.so "$work/tree/medad_fast"  # what was built beside the sources
fi

# --- tests and sanitizers, side by side -----------------------------------------------------------
pytest=("$python" -m pytest -q -p no:cacheprovider --durations=5)
parallel=()
"$python" -c 'import xdist' 2>/dev/null && parallel=(-n "$(($(nproc) > 8 ? 8 : $(nproc)))")
one_call=(python_tests/ops/test_every_op.py -k test_gpu_runs_a_call)
all_tests=(python_tests --continue-on-collection-errors -m "not gpu")
gpu_tests=(python_tests --continue-on-collection-errors -m gpu)
if [ -n "$dry" ]; then
  all_tests=(python_tests/ops/test_native.py)
  gpu_tests=(python_tests/ops -m gpu)
fi
checker=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
check() {
  local tool=$1 command=(env PYTORCH_NO_CUDA_MEMORY_CACHING=1)
  if [ -z "$dry" ]; then
    command+=("${checker:-compute-sanitizer}" --tool "$tool" --error-exitcode 99 --print-limit 20)
    # initcheck must see what torch's kernels write; the others look at ours alone.
    [ "$tool" = initcheck ] || command+=(--kernel-name kns=medad)
  fi
  step "$tool" 240 "${command[@]}" "${pytest[@]}" "${one_call[@]}"
}
step gpu-tests 200 "${pytest[@]}" "${gpu_tests[@]}" --junit-xml="$out/gpu-tests.xml" &
step tests 240 "${pytest[@]}" "${parallel[@]}" "${all_tests[@]}" --junit-xml="$out/tests.xml" &
for tool in memcheck racecheck initcheck synccheck; do
  check $tool &
  [ -z "$dry" ] || wait
done
wait

# --- benchmarks, alone on the machine -------------------------------------------------------------
if wanted bench; then
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv,noheader \
    >"$work/clocks" 2>/dev/null
  for file in bench/bench_*.py; do
    op=$(basename "$file" .py) op=${op#bench_}
    seconds=0.5 more=()
    [ -z "$dry" ] || { seconds=0.05 more=(--no-compile); }
    only= step "bench-$op" 75 "$python" -m "bench.bench_$op" --device "$device" --seconds $seconds \
      --json "$out/bench.jsonl" "${more[@]}"
  done
  nvidia-smi --query-gpu=clocks.sm,clocks.mem,temperature.gpu,power.draw --format=csv,noheader \
    >>"$work/clocks" 2>/dev/null
fi

# --- records --------------------------------------------------------------------------------------
"$python" - "$work" "$out" "$SECONDS" "$dry" <<'PYTHON'
import json, pathlib, re, sys

work, out = map(pathlib.Path, sys.argv[1:3])
environment = json.loads((out / "environment.json").read_text())
clocks = work / "clocks"
if clocks.exists():
    environment["clocks_before_and_after_the_benchmarks"] = clocks.read_text().splitlines()
    (out / "environment.json").write_text(json.dumps(environment, indent=1) + "\n")
steps = []
with (out / "log.txt").open("w") as everything:
    for line in (work / "steps").read_text().splitlines() if (work / "steps").exists() else ():
        name, status, seconds, limit = line.split()
        log = (work / "logs" / name).read_text(errors="replace")
        everything.write(f"\n===== {name} (status {status}, {seconds} s)\n{log[-400_000:]}\n")
        entry = {"step": name, "ok": status == "0", "status": int(status), "seconds": int(seconds)}
        if status in ("124", "137"):
            entry["why"] = f"not done within {limit} s"
        elif status == "127":
            entry["why"] = "a program that it needs is not on this machine"
        counts = re.findall(r"(\d+) (passed|failed|errors?|skipped)\b", log.strip().rpartition("\n")[2])
        entry |= {what: int(number) for number, what in counts}
        failed = re.findall(r"^(?:FAILED|ERROR) (.{1,200})", log, re.MULTILINE)
        if failed:
            entry["first_failures"] = failed[:10]
        reports = re.findall(r"ERROR SUMMARY: (\d+) error|RACECHECK SUMMARY: (\d+) hazard", log)
        if reports:
            entry["reports"] = sum(int(a or b) for a, b in reports)
            kernels = re.findall(r"========= +at (.{1,150})", log)
            entry["reports_in_our_kernels"] = sum("medad" in kernel for kernel in kernels)
            entry["first_reports"] = kernels[:5]
        steps.append(entry)
summary = {
    "gpu": environment["gpus"][0]["name"] if environment["gpus"] else None,
    "dry_run": environment["dry_run"],
    "seconds": int(sys.argv[3]),
    "ok": bool(steps) and all(step["ok"] for step in steps),
    "steps": steps,
}
(out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
for step in steps:
    if not step["ok"]:
        what = step.get("why") or "; ".join(step.get("first_failures", [])[:2]) or "see log.txt"
        print(f"NOT OK {step['step']}: {what}")
print(f"{sum(step['ok'] for step in steps)} of {len(steps)} steps ok, {sys.argv[3]} s; records: {out}")
if environment["missing_packages"]:
    print("tests that need these fail here:", ", ".join(environment["missing_packages"]))
sys.exit(0 if summary["ok"] else 1)
PYTHON
