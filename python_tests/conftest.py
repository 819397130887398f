"""Fixtures and options that all tests share."""

from __future__ import annotations

import os

# Tests use more threads than there are processors: one that waits should leave them to the others.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="GPU test: no CUDA device on this machine")
    not_slow = pytest.mark.skip(reason="slow test: run with --slow")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "slow" in item.keywords and not config.getoption("--slow"):
            item.add_marker(not_slow)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the closing lines how many GPU tests did not run."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if "GPU test" in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.write_line(
            f"{len(skipped)} GPU tests were SKIPPED: no CUDA device on this machine", yellow=True
        )


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device there is: tests that use it run on the GPU by themselves where there is one."""
    return torch.device(request.param)
