"""Run the command line within this process."""

from __future__ import annotations

import pytest

from medad_fast.cli.main import main

METHOD = ["--method", "autoencoder"]


def said(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[int, str, str]:
    code = main(arguments)
    found = capsys.readouterr()
    return code, found.out, found.err
