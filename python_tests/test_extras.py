"""Without the extra ``app`` the ops work, and everything else says what to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import medad_fast
from medad_fast.errors import MissingExtraError

ROOT = Path(medad_fast.__file__).parents[1]
APP = (
    *("scipy", "skimage", "PIL", "pydicom", "nibabel", "safetensors"),
    *("yaml", "rich", "cyclopts", "jinja2", "pydantic"),
)
BARE = f"""
import sys
class Bare:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {APP!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Bare())
"""


def bare(code: str) -> subprocess.CompletedProcess[str]:
    """Run code where only torch and numpy are installed."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", BARE + code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )


@pytest.mark.parametrize("name", ["fit", "predict", "evaluate", "compare", "load"])
def test_a_name_that_needs_the_app_says_what_to_install(name: str) -> None:
    done = bare(f"import medad_fast; medad_fast.{name}")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert f"medad_fast.{name} needs " in last
    assert "pip install 'medad-fast[app]'" in last


@pytest.mark.parametrize("words", [[], ["--help"], ["fit", "--method", "ddad"]])
def test_the_command_says_in_one_line_what_to_install(words: list[str]) -> None:
    done = bare(f"from medad_fast.cli.main import main; sys.exit(main({words!r}))")
    assert done.returncode == MissingExtraError.exit_code
    (line,) = done.stderr.splitlines()
    assert line.startswith("medad: error: medad needs ")
    assert line.endswith("pip install 'medad-fast[app]'")


def test_a_missing_module_of_our_own_is_another_fault() -> None:
    fault = ModuleNotFoundError("No module named 'medad_fast.gone'", name="medad_fast.gone")
    with pytest.raises(ModuleNotFoundError, match="gone"):
        raise MissingExtraError.of(fault, "medad_fast.fit")
