"""The worked examples of CONTRIBUTING.md, applied to a copy of the repository, built and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MOST_PATHS = {"An op": 8, "A method": 4, "A file format": 3}
BLOCK = re.compile(r"^```\w+ file=(\S+)(?: after=\"([^\n]*)\")?\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Change:
    """A new file, or lines that follow a line of a file that exists."""

    path: str
    after: str | None
    text: str

    def apply(self, root: Path) -> None:
        file = root / self.path
        if self.after is None:
            assert not file.exists(), self.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(self.text, encoding="utf-8")
            return
        lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
        place = len(lines)
        if self.after != "end":
            found = [n for n, line in enumerate(lines, start=1) if line.startswith(self.after)]
            (place,) = found
        file.write_text("".join([*lines[:place], self.text, *lines[place:]]), encoding="utf-8")


def examples() -> dict[str, list[Change]]:
    """The changes of each example, by its heading."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    sections = re.split(r"^### (.*)\n", page, flags=re.M)[1:]
    return {
        title: [
            Change(path, after.replace('\\"', '"') or None, text)
            for path, after, text in BLOCK.findall(section)
        ]
        for title, section in zip(sections[::2], sections[1::2], strict=True)
    }


def touched(changes: list[Change]) -> set[str]:
    """The paths of a change, a new folder counting as one."""
    tops = set()
    for change in changes:
        parts = Path(change.path).parts
        known = [end for end in range(1, len(parts) + 1) if (ROOT / Path(*parts[:end])).exists()]
        tops.add(str(Path(*parts[: len(known) + 1])))
    return tops


@pytest.mark.parametrize("title", MOST_PATHS)
def test_an_example_touches_few_places(title: str) -> None:
    places = touched(examples()[title])
    assert 3 <= len(places) <= MOST_PATHS[title], places


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with all examples, and a build of it."""
    root = tmp_path_factory.mktemp("contributing") / "repository"
    listed = run(ROOT, "git", "ls-files", "--cached", "--others", "--exclude-standard").split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file() and not name.startswith("bench/results"):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes((ROOT / name).read_bytes())
    for changes in examples().values():
        for change in changes:
            change.apply(root)
    return root


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    """The compiled part of the copy, beside its sources."""
    build, define = tree / "build", "-DCMAKE_BUILD_TYPE=Release"
    import pybind11

    run(
        tree,
        *("cmake", "-G", "Ninja", "-S", ".", "-B", str(build), define, "-DMEDAD_CUDA=off"),
        *(f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"),
    )
    run(tree, "cmake", "--build", str(build))
    (module,) = build.glob("_C*.so")
    module.rename(tree / "medad_fast" / module.name)
    return tree


def run(folder: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, env=env)
    assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


TESTS = {
    "An op": (
        *("python_tests/ops/mean_square", "python_tests/ops/test_every_op.py"),
        *("-k", "mean_square"),
    ),
    "A method": (
        *("python_tests/methods/mean_image", "python_tests/methods/test_contract.py"),
        *("-k", "mean_image or mean-image"),
    ),
    "A file format": ("python_tests/data/test_pfm.py", "python_tests/data/test_formats.py"),
}


def commands() -> Iterator[tuple[str, tuple[str, ...]]]:
    for title, tests in TESTS.items():
        yield title, ("pytest", "-q", "-p", "no:cacheprovider", *tests)
    yield "the house", ("pytest", "-q", "-p", "no:cacheprovider", "python_tests/test_house.py")
    bench = "python_tests/bench/test_suite.py"
    yield "benchmark", ("bench.bench_mean_square", "--seconds", "0.05", "--point", "tiny")
    yield "benchmarks", ("pytest", "-q", "-p", "no:cacheprovider", bench)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "words"), list(commands()), ids=lambda each: str(each)[:20])
def test_the_examples_run(built: Path, what: str, words: tuple[str, ...]) -> None:
    run(built, sys.executable, "-m", *words)


@pytest.mark.slow
def test_the_examples_are_in_the_projects_style(tree: Path) -> None:
    if not all(shutil.which(tool) for tool in ("ruff", "mypy", "clang-format")):
        pytest.skip("needs the extra lint")
    run(tree, sys.executable, "-m", "ruff", "check", ".")
    run(tree, sys.executable, "-m", "ruff", "format", "--check", ".")
    run(tree, sys.executable, "-m", "mypy")
    sources = [str(path) for path in (tree / "csrc" / "ops" / "mean_square").iterdir()]
    run(tree, "clang-format", "--dry-run", "--Werror", *sources)


@pytest.mark.slow
def test_the_command_line_lists_the_method(built: Path) -> None:
    said = run(built, sys.executable, "-m", "medad_fast", "fit", "--method", "mean-image", "--help")
    assert "--image-size" in said
