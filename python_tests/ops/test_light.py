"""The ops need torch and numpy, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import medad_fast.ops

ROOT = Path(__file__).parents[2]
BARE = """
import sys, torch

class Missing:
    names = {
        "PIL", "cyclopts", "gdcm", "highdicom", "jinja2", "matplotlib", "nibabel", "nilearn",
        "pandas", "pydantic", "pydicom", "pytest", "rich", "safetensors", "scipy", "skimage",
        "sklearn", "yaml",
    }

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

for name in list(sys.modules):
    assert name.partition(".")[0] not in Missing.names, name
sys.meta_path.insert(0, Missing())
"""


def bare(code: str) -> str:
    """What a new interpreter prints that finds nothing but torch and numpy."""
    package = Path(medad_fast.ops.__file__).parents[2]
    path = os.pathsep.join([str(package), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", BARE + code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_torch_numpy_and_the_kernels_only() -> None:
    code = """
before = set(sys.modules)
import medad_fast.ops
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - {"numpy", "torch"})
"""
    assert bare(code) == "medad_fast"


def test_every_op_runs_forward_and_backward() -> None:
    code = """
from python_tests.ops.cases import all_cases
from python_tests.ops.run_case import outcome
print(sum(bool(outcome(case, case.tensors())) for case in all_cases()) == len(all_cases()) > 0)
"""
    assert bare(code) == "True"


def test_a_reference_that_needs_more_names_the_extra() -> None:
    code = """
import medad_fast.ops as ops
images = torch.zeros(1, 8, 8, dtype=torch.uint8)
try:
    ops.lung_mask_reference(images)
except ImportError as error:
    print(error)
with ops.backend("reference"):
    print(ops.lung_mask(images.to("meta")).shape)
"""
    wanted = "lung_mask_reference needs scikit-image: pip install 'medad-fast[app]'"
    assert bare(code) == f"{wanted}\ntorch.Size([1, 8, 8])"
