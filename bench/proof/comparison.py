"""Two files of digests, quantity by quantity."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from bench.proof.values import Value

Cases = Mapping[str, Mapping[str, Mapping[str, Value]]]
"""By case (kind and method) and group the quantities by name."""


@dataclass
class Comparison:
    """What two digests have in common and what not, in lines to be read."""

    equal: Counter[str] = field(default_factory=Counter)
    """How many quantities of each group are equal."""
    differing: list[str] = field(default_factory=list)
    """One line a quantity."""
    missing: list[str] = field(default_factory=list)
    """Cases and groups without a quantity to compare: as bad as a difference."""
    one_sided: list[str] = field(default_factory=list)
    """Quantities that one side alone has, in groups that both have."""

    @property
    def same(self) -> bool:
        """Whether everything that should be there on both sides is, and is equal."""
        return not self.differing and not self.missing


def compare(
    a: Mapping[str, Any], b: Mapping[str, Any], leave_out: Collection[str] = ()
) -> Comparison:
    """Compare what two calls of ``digest`` wrote.

    Args:
        a: the first, as read from JSON.
        b: the second.
        leave_out: patterns of ``group/quantity``, such as ``report/*: words``, that are not
            compared.
    """
    found = Comparison()
    for name, side in (("A", a), ("B", b)):
        found.missing += [f"{name} failed: {failure}" for failure in side["failures"]]
    if not (a["cases"] or b["cases"]):
        found.missing.append("no case in either")
    for case, ours, theirs in _sides(a["cases"], b["cases"], found, "case"):
        ours, theirs = _kept(ours, leave_out), _kept(theirs, leave_out)
        for group, mine, other in _sides(ours, theirs, found, f"{case}: group"):
            _quantities(f"{case}: {group}", group, mine, other, found)
    return found


def _sides(
    a: Mapping[str, Any], b: Mapping[str, Any], found: Comparison, what: str
) -> Iterator[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*a, *b]):
        if name in a and name in b:
            yield name, a[name], b[name]
        else:
            found.missing.append(f"{what} {name!r} is in {'A' if name in a else 'B'} only")


def _kept(
    groups: Mapping[str, Mapping[str, Value]], leave_out: Collection[str]
) -> dict[str, dict[str, Value]]:
    """The groups without what is left out, and without those that have nothing else."""
    kept = {
        group: {
            name: value
            for name, value in found.items()
            if not any(fnmatchcase(f"{group}/{name}", pattern) for pattern in leave_out)
        }
        for group, found in groups.items()
    }
    return {group: found for group, found in kept.items() if found}


def _quantities(
    where: str, group: str, a: Mapping[str, Value], b: Mapping[str, Value], found: Comparison
) -> None:
    if a.keys().isdisjoint(b):
        found.missing.append(f"{where}: A and B have no quantity in common")
        return
    for name in dict.fromkeys([*a, *b]):
        if name not in a or name not in b:
            found.one_sided.append(f"{where}: {name} is in {'A' if name in a else 'B'} only")
        elif difference := _difference(a[name], b[name]):
            found.differing.append(f"{where}: {name}: {difference}")
        else:
            found.equal[group] += 1


def _difference(a: Value, b: Value) -> str:
    """In words, empty where they are equal."""
    if "values" in a and "values" in b:
        return _number_difference(a["values"], b["values"])
    for name in ("dtype", "shape"):
        if a.get(name) != b.get(name):
            return f"{name} {a.get(name)} against {b.get(name)}"
    if a["sha256"] == b["sha256"]:
        return ""
    return f"not the same {a['dtype']} {a['shape']}, sum {a.get('sum')} against {b.get('sum')}"


def _number_difference(a: list[Any], b: list[Any]) -> str:
    if len(a) != len(b):
        return f"{len(a)} numbers against {len(b)}"
    # As text, since -0.0 equals 0.0.
    places = [
        place
        for place, pair in enumerate(zip(a, b, strict=True))
        if len(set(map(json.dumps, pair))) > 1
    ]
    if not places:
        return ""
    first = places[0]
    return f"{len(places)} of {len(a)} differ, the first {a[first]} against {b[first]}"
