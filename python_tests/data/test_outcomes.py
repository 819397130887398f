"""The tables of docs/reading.md say what becomes of every odd file of two other projects."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec

import pytest

from python_tests.data.outcomes import PAGE, WHEELS, outcomes, outcomes_without_decoders, table


@pytest.fixture(scope="module")
def without():
    return outcomes_without_decoders()


@pytest.fixture(scope="module")
def extra():
    if find_spec("gdcm") is None:
        pytest.skip('the decoders are not installed: pip install "medad-fast[dicom]"')
    return outcomes()


@pytest.mark.parametrize("wheel", WHEELS)
def test_every_packaged_file_has_the_outcome_that_the_page_states(wheel, without, extra):
    page = PAGE.read_text(encoding="utf-8")
    if f"`{wheel}` {metadata.version(wheel)}, " not in page:
        pytest.skip(f"the page is about another version of {wheel}")
    assert table(wheel, without[wheel], extra[wheel]) in page


def test_every_refusal_is_one_line_that_is_no_bug_report(without):
    for files in without.values():
        for outcome in files.values():
            assert "\n" not in outcome
            assert outcome.startswith(("read: ", "refused: "))
