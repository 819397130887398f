"""The house guards itself: whole slices, layers of files, no pickle, README code that runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import medad_fast.methods
import medad_fast.ops

ROOT = Path(__file__).parents[1]
OPS = [name for name in medad_fast.ops.__all__ if hasattr(medad_fast.ops, f"{name}_reference")]
SOURCES = sorted((ROOT / "medad_fast").rglob("*.py"))


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_a_whole_slice(op: str) -> None:
    module = importlib.import_module(f"medad_fast.ops.{op}")
    assert callable(getattr(module, op))
    assert callable(getattr(module, f"{op}_reference"))
    for part in (
        f"csrc/ops/{op}.h",
        f"csrc/ops/{op}.cpp",
        f"csrc/ops/{op}_cpu.cpp",
        f"csrc/ops/{op}.cu",
        f"python_tests/ops/test_{op}.py",
        f"bench/bench_{op}.py",
    ):
        assert (ROOT / part).is_file(), part


def test_every_op_source_belongs_to_a_public_op() -> None:
    stems = {path.stem.removesuffix("_cpu") for path in (ROOT / "csrc" / "ops").iterdir()}
    assert stems == set(OPS)


@pytest.mark.parametrize("method", medad_fast.methods.list_methods())
def test_a_method_names_its_source_and_its_defaults(method: str) -> None:
    module = importlib.import_module(medad_fast.methods.config_class(method).__module__)
    assert module.__doc__ is not None
    assert "Source:" in module.__doc__


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_unpickles(path: Path) -> None:
    hostile = re.compile(
        r"\bpickle\b|\bjoblib\b|allow_pickle\s*=\s*True|torch\.load\(|yaml\.(unsafe_)?load\("
        r"|\beval\(|\bexec\(|extractall"
    )
    code = path.read_text(encoding="utf-8")
    found = [line for line in code.splitlines() if hostile.search(line)]
    assert not [line for line in found if "no pickle" not in line.lower()]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_a_drawer(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "common", "misc"}
