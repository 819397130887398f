"""Compile every CUDA kernel for every architecture; registers, spills and shared memory of each.

    python -m bench.cuda_resources            # print the table
    python -m bench.cuda_resources --write    # and commit it as bench/results/cuda_resources.json
    python -m bench.cuda_resources --check    # fail on a warning, a new spill, or another table

Needs nvcc and no GPU. Counts are compared only with a table that the same nvcc release made.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "bench" / "results" / "cuda_resources.json"
ARCHITECTURES = ("75", "80", "86", "89", "90", "100", "120")

Resources = dict[str, int]


def nvcc_release() -> str:
    """The compiler's release, such as ``13.0``."""
    if shutil.which("nvcc") is None:
        raise SystemExit("nvcc: not found; install the CUDA toolkit and put nvcc on PATH")
    text = subprocess.run(["nvcc", "--version"], check=True, capture_output=True, text=True).stdout
    match = re.search(r"release (\d+\.\d+)", text)
    if match is None:
        raise SystemExit(f"nvcc --version: a release expected, got {text!r}")
    return match[1]


def compile_kernels(source: Path) -> str:
    """Compile one ``.cu`` for all architectures, warnings as errors; what ptxas reports."""
    command = ["nvcc", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "--expt-relaxed-constexpr"]
    command += ["--extended-lambda", "-Werror", "all-warnings", "-Xptxas", "-v"]
    command += ["-Xcompiler", "-Wall,-Wextra,-Werror", "-DMEDAD_WITH_CUDA"]
    for arch in ARCHITECTURES:
        command += ["-gencode", f"arch=compute_{arch},code=sm_{arch}"]
    newest = ARCHITECTURES[-1]
    command += ["-gencode", f"arch=compute_{newest},code=compute_{newest}"]
    command += ["-c", str(source), "-o", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f"{source.relative_to(ROOT)} does not compile:\n{result.stderr}")
    return result.stderr


def parse(report: str) -> Iterator[tuple[str, str, Resources]]:
    """Kernel (demangled), architecture and its resources, from the output of ``ptxas -v``."""
    readable = subprocess.run(
        ["c++filt"], input=report, check=True, capture_output=True, text=True
    ).stdout
    entry = re.compile(
        r"Compiling entry function '(?P<kernel>.+?)' for 'sm_(?P<arch>\d+)a?'"
        r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers(?P<rest>[^\n]*)",
        re.DOTALL,
    )
    for match in entry.finditer(readable):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        yield (
            _short_name(match["kernel"]),
            match["arch"],
            {
                "registers": int(match["registers"]),
                "spill_bytes": int(match["stores"]) + int(match["loads"]),
                "stack_bytes": int(match["stack"]),
                "shared_bytes": int(shared[1]) if shared else 0,
            },
        )


def _short_name(kernel: str) -> str:
    """A demangled kernel with its template arguments, without namespaces and parameters."""
    name = re.sub(r"\(anonymous namespace\)::|^void |medad::", "", kernel)
    depth = 0
    for place, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:place]
    return name


def table() -> dict[str, Any]:
    """All kernels of ``csrc/ops``, by source, kernel and architecture."""
    sources = sorted((ROOT / "csrc" / "ops").glob("*/gpu.cu"))
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(compile_kernels, sources))
    kernels: dict[str, dict[str, dict[str, Resources]]] = {}
    for source, report in zip(sources, reports, strict=True):
        for kernel, arch, resources in parse(report):
            kernels.setdefault(source.parent.name, {}).setdefault(kernel, {})[f"sm_{arch}"] = (
                resources
            )
    return {"nvcc": nvcc_release(), "architectures": list(ARCHITECTURES), "kernels": kernels}


def differences(found: dict[str, Any], committed: dict[str, Any]) -> list[str]:
    """More spills than committed, and any difference where the compiler is the same."""
    problems = []
    for op, kernels in found["kernels"].items():
        for kernel, archs in kernels.items():
            known = committed["kernels"].get(op, {}).get(kernel, {})
            problems += [
                f"{op}: {kernel} spills {resources['spill_bytes']} bytes on {arch}"
                for arch, resources in archs.items()
                if resources["spill_bytes"] > known.get(arch, {}).get("spill_bytes", 0)
            ]
    if found["nvcc"] == committed["nvcc"] and found["kernels"] != committed["kernels"]:
        changed = [
            op for op in found["kernels"] if found["kernels"][op] != committed["kernels"].get(op)
        ]
        problems.append(
            f"{TABLE.relative_to(ROOT)} is out of date for {', '.join(changed) or 'a removed op'}; "
            "run `python -m bench.cuda_resources --write` and look at what changed"
        )
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write the table")
    parser.add_argument("--check", action="store_true", help="compare with the committed table")
    options = parser.parse_args()
    found = table()
    for op, kernels in found["kernels"].items():
        for kernel, archs in kernels.items():
            worst = max(archs.values(), key=lambda resources: resources["registers"])
            print(f"{op:22} {kernel:70.70} {worst['registers']:4} registers at most")
    if options.write:
        TABLE.parent.mkdir(parents=True, exist_ok=True)
        TABLE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if options.check:
        if not TABLE.is_file():
            sys.exit(f"{TABLE.relative_to(ROOT)}: not there; run with --write")
        problems = differences(found, json.loads(TABLE.read_text(encoding="utf-8")))
        if problems:
            sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
