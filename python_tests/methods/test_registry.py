"""The list of methods: what it says, what it costs, and that each stands on its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from medad_fast.methods import BASELINES, PLACES, config_class, list_methods, method_class
from medad_fast.methods.base import Method

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "methods.md"
SOURCES = sorted((ROOT / "medad_fast" / "methods").rglob("*.py"))


def test_baselines_come_last():
    flags = [name in BASELINES for name in list_methods()]
    assert flags == sorted(flags)
    assert {"autoencoder", "patch-knn"} <= BASELINES < set(list_methods())


@pytest.mark.parametrize("name", list_methods())
def test_a_method_has_its_section_in_the_documentation(name):
    assert f"## {name}" in PAGE.read_text(encoding="utf-8").splitlines()
    assert issubclass(method_class(name), Method)
    assert config_class(name)() == method_class(name)(config_class(name)()).config


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_method_is_known_to_another_or_to_a_part(path):
    others = {module for module, _ in PLACES.values()} - {path.stem}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert not imported & {f"medad_fast.methods.{other}" for other in others}


def test_the_names_cost_no_import_of_torch():
    code = "import sys, medad_fast.methods as m; m.list_methods(); print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
