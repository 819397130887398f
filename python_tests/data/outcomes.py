"""What becomes of every test file that the pydicom and nibabel wheels carry.

``python -m python_tests.data.outcomes`` writes the tables of ``docs/reading.md``;
``test_outcomes.py`` compares them. Each wheel is read twice, with the decoders of the ``dicom``
extra and, in another process, without them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

PAGE = Path(__file__).parents[2] / "docs" / "reading.md"
WHEELS = ("pydicom", "nibabel")
DECODERS = ("gdcm", "jpeg_ls", "pylibjpeg", "libjpeg", "openjpeg", "rle")
"""Modules that pydicom decodes with; the second and third come with highdicom or by hand."""

START, END = "<!-- outcomes of {} -->", "<!-- end of {} -->"


def wheel_files(wheel: str) -> dict[str, Path]:
    """The test files of an installed wheel by their path in it, without code."""
    spec = find_spec(wheel)
    assert spec is not None
    assert spec.origin is not None
    root = Path(spec.origin).parent
    return {
        path.relative_to(root).as_posix(): path
        for path in sorted(root.rglob("*"))
        if path.is_file()
        and path.suffix not in {".py", ".pyc", ".pyi"}
        and "data" in path.relative_to(root).parts[:-1]
    }


def outcome(path: Path) -> str:
    """What reading a file gives, or why it is refused."""
    from medad_fast.data import read
    from medad_fast.errors import MedadError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = read(path)
    except MedadError as error:
        reason = str(error).removeprefix(f"{path}: ")
        return f"refused: {reason}"
    shape = " x ".join(map(str, image.pixels.shape))
    place = " in the patient" if image.is_volume else ""
    return f"read: {shape} {image.pixels.dtype}{place}"


def outcomes() -> dict[str, dict[str, str]]:
    """By wheel and file, with the decoders that this process can import."""
    return {
        wheel: {name: outcome(path) for name, path in wheel_files(wheel).items()}
        for wheel in WHEELS
    }


def outcomes_without_decoders() -> dict[str, dict[str, str]]:
    """The same in a process that has only what medad_fast itself requires."""
    code = (
        "import json, sys\n"
        f"for name in {DECODERS!r}: sys.modules[name] = None\n"
        "from python_tests.data.outcomes import outcomes\n"
        "print(json.dumps(outcomes()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, dict[str, str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(wheel: str, without: dict[str, str], extra: dict[str, str]) -> str:
    """Markdown between two marks: a row for each outcome, with the files that have it."""
    rows: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name in without:
        also = "the same" if extra[name] == without[name] else extra[name]
        rows[without[name], also].append(name)
    lines = [
        START.format(wheel),
        f"`{wheel}` {metadata.version(wheel)}, {len(without)} files:",
        "",
        "| outcome | with the `dicom` extra | files |",
        "| --- | --- | --- |",
    ]
    for (core, also), names in sorted(rows.items()):
        shown = ", ".join(f"`{name}`" for name in _folded(names, without))
        lines.append(f"| {core} | {also} | {shown} |")
    return "\n".join([*lines, END.format(wheel)])


def _folded(names: list[str], every: Iterable[str]) -> Iterator[str]:
    """Names, with ``folder/*`` or ``folder/*.suffix`` for what fits all files there."""
    all_of = Counter(key for name in every for key in _patterns(name))
    own = Counter(key for name in names for key in _patterns(name))
    seen = set()
    for name in names:
        whole = next((key for key in _patterns(name) if 2 < own[key] == all_of[key]), None)
        if whole is None:
            yield name
        elif whole not in seen:
            seen.add(whole)
            yield whole


def _patterns(name: str) -> tuple[str, str]:
    path = PurePosixPath(name)
    return f"{path.parent}/*", f"{path.parent}/*{path.suffix}"


def tables() -> dict[str, str]:
    """The table of each wheel."""
    without, extra = outcomes_without_decoders(), outcomes()
    return {wheel: table(wheel, without[wheel], extra[wheel]) for wheel in WHEELS}


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for wheel, text in tables().items():
        before, _, rest = page.partition(START.format(wheel))
        _, _, after = rest.partition(END.format(wheel))
        page = before + text + after
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
