"""The house guards itself: whole slices, methods with sources, no unpickling, no drawers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import medad_fast.methods
import medad_fast.ops

ROOT = Path(__file__).parents[1]
OPS = [name for name in medad_fast.ops.__all__ if hasattr(medad_fast.ops, f"{name}_reference")]
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
SOURCES = sorted((ROOT / "medad_fast").rglob("*.py"))


@pytest.mark.parametrize("op", OPS)
def test_an_op_is_a_whole_slice(op: str) -> None:
    module = importlib.import_module(f"medad_fast.ops.{op}")
    assert callable(getattr(module, op))
    assert callable(getattr(module, f"{op}_reference"))
    for part in (
        f"csrc/ops/{op}/{op}.h",
        f"csrc/ops/{op}/bind.cpp",
        f"csrc/ops/{op}/cpu.cpp",
        f"csrc/ops/{op}/gpu.cu",
        f"python_tests/ops/{op}/cases.py",
        f"python_tests/ops/{op}/test_{op}.py",
        f"bench/bench_{op}.py",
    ):
        assert (ROOT / part).is_file(), part


def test_every_op_source_belongs_to_a_public_op() -> None:
    assert {path.name for path in (ROOT / "csrc" / "ops").iterdir()} == set(OPS)


@pytest.mark.parametrize("method", medad_fast.methods.list_methods())
def test_a_method_names_its_source_and_its_defaults(method: str) -> None:
    module = importlib.import_module(medad_fast.methods.config_class(method).__module__)
    assert module.__doc__ is not None
    assert "Source:" in module.__doc__
    for name, field in medad_fast.methods.config_class(method).__pydantic_fields__.items():
        assert field.description, name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_runs_code_from_a_file(path: Path) -> None:
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)) and _runs_code(node)
    ]
    assert not found


def _runs_code(node: ast.Import | ast.ImportFrom | ast.Call) -> bool:
    """Whether a statement unpickles, evaluates or extracts what a file holds."""
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in UNPICKLERS for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in UNPICKLERS
    called = ast.unparse(node.func)
    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
    if called in {"np.load", "np.save", "numpy.load"}:
        return options.get("allow_pickle") != "False"
    if called == "yaml.load":
        return not options.get("Loader", "").endswith(("SafeLoader", "StrictLoader"))
    return called in {"eval", "exec", "torch.load", "torch.save"} or called.endswith(".extractall")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_a_drawer(path: Path) -> None:
    assert path.stem not in {"utils", "helpers", "common", "misc"}
