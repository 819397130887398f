"""Which code a figure depends on, as one digest: a record of other code does not count.

Counted are the modules given and those of this package that they import, and so on, and the C++
sources of the ops among them. Comments, docstrings and layout are not: they change no figure. Not
followed are reading and writing of files, errors, and the lists of what there is: what they do to a
figure is fixed by tests, and the pictures of each set have a digest of their own in the record.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path

__all__ = ["ROOT", "digest", "modules_of", "normalised"]

ROOT = Path(__file__).parents[2]
PACKAGE = "medad_fast"
NOT_FOLLOWED = re.compile(
    r"medad_fast(\.(methods|ops|simulate|preprocess|evaluate|nets))?"
    r"|medad_fast\.(_C|errors|tensor_file|training_state|folder_lock|outliers|estimate|provenance)"
    r"|medad_fast\.(io|cli|report|recipes)(\..*)?"
    r"|medad_fast\.ops\.(_native|_arguments)"
)


def modules_of(names: Iterable[str]) -> tuple[str, ...]:
    """The modules named, and all of this package that they import, sorted."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        waiting += _imported(name)
    return tuple(sorted(found))


def digest(modules: Iterable[str]) -> str:
    """Of what these modules do; 12 hexadecimal digits."""
    total = hashlib.sha256()
    for name in sorted(modules):
        total.update(f"{name}\n{normalised(_text(name))}\n".encode())
        for path in _kernels(name):
            total.update(f"{path.name}\n{_plain(path.read_text(encoding='utf-8'))}\n".encode())
    return total.hexdigest()[:12]


def normalised(text: str) -> str:
    """Python code without comments, docstrings and layout."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            kept = [each for each in body if not _is_text(each)]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.unparse(tree)


def _is_text(statement: ast.stmt) -> bool:
    return (
        isinstance(statement, ast.Expr)
        and isinstance(statement.value, ast.Constant)
        and isinstance(statement.value.value, str)
    )


@functools.cache
def _text(name: str) -> str:
    path = _path(name)
    if path is None:
        raise ModuleNotFoundError(name)
    return path.read_text(encoding="utf-8")


@functools.cache
def _path(name: str) -> Path | None:
    package = importlib.util.find_spec(PACKAGE)
    assert package is not None
    assert package.origin is not None
    place = Path(package.origin).parent.joinpath(*name.split(".")[1:])
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _imported(name: str) -> tuple[str, ...]:
    """Modules of this package that a module imports, wherever in it the import stands."""
    wanted: set[str] = set()
    for node in ast.walk(ast.parse(_text(name))):
        if isinstance(node, ast.Import):
            wanted |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            wanted.add(node.module)
            wanted |= {f"{node.module}.{alias.name}" for alias in node.names}
    return tuple(
        sorted(
            each
            for each in wanted
            if each.split(".")[0] == PACKAGE
            and not NOT_FOLLOWED.fullmatch(each)
            and _path(each) is not None
        )
    )


def _kernels(name: str) -> list[Path]:
    """The C++ sources of an op, where this runs in a checkout."""
    if not name.startswith(f"{PACKAGE}.ops."):
        return []
    op = name.rpartition(".")[2]
    folder = ROOT / "csrc" / "ops"
    return [path for end in (".h", ".cpp", "_cpu.cpp") if (path := folder / f"{op}{end}").is_file()]


def _plain(text: str) -> str:
    """C++ without comments and layout."""
    return " ".join(re.sub(r"//[^\n]*|/\*.*?\*/", " ", text, flags=re.S).split())
