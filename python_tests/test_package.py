"""What importing costs, and that the public names are what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import medad_fast

ROOT = Path(medad_fast.__file__).parents[1]


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return done.stdout.strip()


HEAVY = (
    "sklearn",
    "skimage",
    "pydicom",
    "matplotlib",
    "nibabel",
    "PIL",
    "jinja2",
    "rich",
    "cyclopts",
    "scipy.ndimage",
)


@pytest.mark.parametrize("name", ["medad_fast", "medad_fast.ops", "medad_fast.methods"])
def test_importing_loads_nothing_heavy(name: str) -> None:
    code = f"import torch, sys; before = set(sys.modules); import {name}"
    loaded = fresh(f"{code}; print(*sorted(set(sys.modules) - before))").split()
    assert name in loaded
    assert not {module for module in loaded if module in HEAVY}


def test_importing_the_package_needs_no_torch() -> None:
    assert fresh("import medad_fast, sys; print('torch' in sys.modules)") == "False"


def test_importing_ops_starts_no_thread_and_opens_no_cuda_context() -> None:
    code = (
        "import os, torch; count = lambda: len(os.listdir('/proc/self/task'));"
        "before = count(); import medad_fast.ops;"
        "print(count() - before, torch.cuda.is_initialized())"
    )
    assert fresh(code) == "0 False"


def test_every_public_name_is_there() -> None:
    for name in medad_fast.__all__:
        assert getattr(medad_fast, name) is not None
    assert set(medad_fast.__all__) <= set(dir(medad_fast))


@pytest.mark.parametrize(
    "first", ["medad_fast.verbs.fit", "medad_fast.verbs.predict", "medad_fast.evaluation.summary"]
)
def test_a_verb_stays_a_function_when_its_module_is_imported(first: str) -> None:
    code = f"import {first}; import medad_fast as m; print(callable(m.fit), callable(m.predict),"
    assert fresh(code + "callable(m.evaluate), callable(m.load))") == "True True True True"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        _ = medad_fast.nonsense


def test_build_info_says_why_there_is_no_cuda() -> None:
    info = medad_fast.build_info()
    assert {"cpu", "cuda", "cuda_archs", "cuda_reason", "openmp", "version"} <= set(info)
    assert info["cuda"] or info["cuda_reason"]
