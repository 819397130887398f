"""Every header of csrc compiles by itself: what it needs it includes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from python_tests.emulation import CSRC, compiler

HEADERS = sorted(path.relative_to(CSRC) for end in ("h", "cuh") for path in CSRC.rglob(f"*.{end}"))


@pytest.mark.parametrize("header", HEADERS, ids=str)
def test_a_header_needs_no_includer(header: Path) -> None:
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler")
    command = [cxx, "-std=c++17", "-fsyntax-only", "-fopenmp", f"-I{CSRC}"]
    if header.suffix == ".cuh" or header.parts[0] == "emulation":
        command += ["-DMEDAD_EMULATION", "-Wno-unknown-pragmas"]
    else:
        command += ["-DMEDAD_ISA=baseline", "-DMEDAD_ISA_baseline"]
    command += ["-include", str(header), "-x", "c++", "/dev/null"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
