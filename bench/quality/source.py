"""Which code a figure depends on, as one digest: a record of other code is stale.

Counted is everything that can change a score: the modules that a fit, its prediction and its
figures start from, what they import, and so on, wherever in a file the import stands; the C++ of
the ops among them, and the C++ that all ops share; the compiler's flags. ``NOT_FOLLOWED`` names the
exceptions.

The digest is of the set of normalised definitions (see :mod:`bench.quality.normal`), each with the
definitions that its names stand for. No path is in it. So a file may be renamed, moved to another
folder, cut in two or joined with another one that counts, and the digest stays.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.quality.normal import Module, cpp_declarations, python_module, python_text

ROOT = Path(__file__).parents[2]
PACKAGES = ("bench", "medad_fast")
CPU_SUFFIXES = (".h", ".cpp")

NOT_FOLLOWED = {
    r"dicom\w*": "reads and writes DICOM files; the sets are PNG files",
    r"errors": "says why there is no score",
    r"cli|doctor|report": "shows scores and makes none",
    r"recipes": "holds settings, which the key has from the fit itself",
}
"""Patterns of a part of a module's dotted name, with the reason why such modules do not count."""

LISTS = (
    "medad_fast",
    "medad_fast.methods",
    "medad_fast.methods.parts",
    "medad_fast.nets",
    "medad_fast.ops",
    "bench.quality.sets",
)
"""Packages that list what there is: of each counts only what is imported from it by name.

Another method, op or set may join them.
"""


class Tree:
    """The sources under a folder that is laid out as this repository, as they are when first read.

    Args:
        root: the folder; the repository that this file is in by default.
    """

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._modules: dict[str, Module | None] = {}
        self._texts: dict[tuple[str, int], str] = {}

    def digest(self, entries: Iterable[str]) -> str:
        """Of everything that these modules do; 12 hexadecimal digits."""
        names = self.reached(entries)
        lines = {line for name in names for line in self._lines(name)}
        if kernels := self.kernels(names):
            lines.update(*(_cpp(path.read_text(encoding="utf-8")) for path in kernels))
            lines.update(self._flags())
        total = hashlib.sha256("\n".join(sorted(map(_sha, lines))).encode())
        return total.hexdigest()[:12]

    def reached(self, entries: Iterable[str]) -> tuple[str, ...]:
        """The modules named and all that count of what they import, sorted.

        Raises:
            ModuleNotFoundError: one of those named is not under the folder.
        """
        found: set[str] = set()
        waiting = []
        for name in entries:
            if self._module(name) is None:
                raise ModuleNotFoundError(f"{name} is not under {self._root}")
            waiting += [name, *self._counted(name)]
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self._followed(name)
        return tuple(sorted(found))

    def kernels(self, modules: Iterable[str]) -> list[Path]:
        """The C++ sources that run on a CPU for these modules: their ops', and what ops share.

        An op's folder in ``csrc/ops`` has the name of its module. What it includes of the folder of
        another op brings the whole of that.
        """
        csrc = self._root / "csrc"
        ops = {path.name for path in csrc.glob("ops/*") if path.is_dir()}
        waiting = list(ops.intersection(part for name in modules for part in name.split(".")))
        if not waiting:
            return []
        files = {path for place in ("*", "core/**/*", "ops/*") for path in csrc.glob(place)}
        while waiting:
            op = waiting.pop()
            ops.discard(op)
            for path in (csrc / "ops" / op).glob("**/*"):
                files.add(path)
                if path.suffix in CPU_SUFFIXES:
                    text = path.read_text(encoding="utf-8")
                    waiting += ops.intersection(re.findall(r'#include "ops/(\w+)/', text))
        return sorted(path for path in files if path.suffix in CPU_SUFFIXES)

    def _flags(self) -> set[str]:
        """The compiler's flags, such as the one that forbids fused multiply-adds."""
        paths = [self._root / "CMakeLists.txt", *self._root.glob("csrc/ops/*/*.cmake")]
        text = "\n".join(path.read_text(encoding="utf-8") for path in paths)
        return set(re.findall(r"(?<![\w}-])-[A-Za-z][^\s<>()\"]*", re.sub(r"#.*", "", text)))

    def _module(self, name: str) -> Module | None:
        """``None`` where there is no such file, or where the name is no module of ours."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def _read(self, name: str) -> Module | None:
        if name.partition(".")[0] not in PACKAGES:
            return None
        place = self._root.joinpath(*name.split("."))
        for path in (place.with_suffix(".py"), place / "__init__.py"):
            if path.is_file():
                text = path.read_text(encoding="utf-8")
                return python_module(name, path.name == "__init__.py", text)
        return None

    def _counts(self, name: str) -> bool:
        parts = name.split(".")
        left_out = any(re.fullmatch(each, part) for each in NOT_FOLLOWED for part in parts)
        return name not in LISTS and not left_out and self._module(name) is not None

    def _followed(self, name: str) -> Iterator[str]:
        """What counts of the modules that run when this one is imported, or its functions run."""
        module = self._module(name)
        assert module is not None
        for target, attribute in module.imported:
            if home := self._home(target, attribute):
                yield from self._counted(home)

    def _home(self, target: str, attribute: str | None) -> str | None:
        """The module that an import is of. A list is asked where it has the name from."""
        if attribute is None or self._module(f"{target}.{attribute}") is not None:
            return target if attribute is None else f"{target}.{attribute}"
        if target not in LISTS:
            return target
        module = self._module(target)
        found = module.imports.get(attribute) if module else None
        return self._home(*found) if found else None

    def _counted(self, name: str) -> Iterator[str]:
        """What counts of a module and the packages around it, which run before it."""
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            above = ".".join(parts[:end])
            if self._counts(above):
                yield above

    def _lines(self, name: str) -> Iterator[str]:
        """Each definition of a module, with those that it uses."""
        module = self._module(name)
        assert module is not None
        for number, statement in enumerate(module.statements):
            used = [(name, each) for each in statement.names]
            for owner, attribute in statement.attributes:
                if (home := self._package_module(name, owner)) is not None:
                    used.append((home, attribute))
            origins = {(each, self._origin(home, each)) for home, each in used}
            known = sorted(f"{each} {origin}" for each, origin in origins if origin)
            yield "\n".join([self._text(name, number), *known])

    def _text(self, name: str, number: int) -> str:
        """A definition, with ``module.name`` written as ``name`` where the module is ours."""
        if (name, number) not in self._texts:
            module = self._module(name)
            assert module is not None
            statement = module.statements[number]
            owners = {owner for owner, _ in statement.attributes}
            ours = {owner for owner in owners if self._package_module(name, owner) is not None}
            self._texts[name, number] = python_text(statement, frozenset(ours))
        return self._texts[name, number]

    def _package_module(self, name: str, local: str) -> str | None:
        """The module of ours that a name in a module stands for."""
        module = self._module(name)
        if module is None or local not in module.imports:
            return None
        target, attribute = module.imports[local]
        if attribute is None:
            return target if self._module(target) is not None else None
        package = self._module(target)
        if package is None or attribute in package.defined:
            return None
        if attribute in package.imports and (target, attribute) != (name, local):
            return self._package_module(target, attribute)
        whole = f"{target}.{attribute}"
        return whole if self._module(whole) is not None else None

    def _origin(self, name: str, local: str, depth: int = 0) -> str | None:
        """What a name in a module stands for: a definition's digest, or what it is imported as.

        ``None`` for what is built in, a module of ours, or defined where nothing counts.
        """
        module = self._module(name)
        if module is None or depth > 9 or not (self._counts(name) or name in LISTS):
            return None
        if local in module.defined:
            return _sha("\n".join(self._text(name, number) for number in module.defined[local]))
        if local not in module.imports:
            return None
        target, attribute = module.imports[local]
        if target.partition(".")[0] not in PACKAGES:
            return target if attribute is None else f"{target}.{attribute}"
        return None if attribute is None else self._origin(target, attribute, depth + 1)


@functools.cache
def _cpp(text: str) -> tuple[str, ...]:
    return cpp_declarations(text)


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
