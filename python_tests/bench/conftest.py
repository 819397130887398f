"""No test waits for the machine's own speed to be measured, except where a whole run is tested."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.harness import machine
from python_tests.bench.records import MACHINE


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def describe(device: torch.device) -> dict[str, Any]:
        return MACHINE | {"device": device.type, "threads": torch.get_num_threads()}

    monkeypatch.setattr(machine, "describe", describe)
