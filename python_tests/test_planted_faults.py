"""The planted faults still have a place in the sources; planting them all is slow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from python_tests.planted_faults import FAULTS, ROOT, edited


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_can_be_planted(fault):
    assert edited(fault, ROOT)
    for test in fault.tests:
        assert not test.endswith(".py") or (ROOT / test).is_file()


def test_there_are_enough_of_all_kinds():
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 20


@pytest.mark.slow
def test_every_planted_fault_is_caught():
    command = [sys.executable, "-m", "python_tests.planted_faults"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
