"""What a quantity becomes in a file of digests: a few numbers whole, an array by its sha256."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Value = dict[str, Any]
"""``values``, a list of numbers (``None`` where there is none); or ``dtype``, ``shape``,
``sha256`` of the bytes, and ``sum``, which is shown and not compared."""
Quantities = dict[str, Value]

MOST_NUMBERS = 512


def numbers(values: Iterable[float | None]) -> Value:
    """Numbers with all their digits; 1 and 1.0 are the same, 0.0 and -0.0 are not."""
    found = [None if value is None else float(value) for value in values]
    if len(found) > MOST_NUMBERS:
        return array(np.array([math.nan if value is None else value for value in found]))
    # JSON has no word for what is not finite.
    return {
        "values": [
            value if value is None or math.isfinite(value) else str(value) for value in found
        ]
    }


def array(values: NDArray[Any]) -> Value:
    """Any array, down to the last bit."""
    contiguous = np.ascontiguousarray(values)
    return raw(contiguous.dtype.name, contiguous.shape, contiguous.tobytes(), contiguous)


def raw(dtype: str, shape: Iterable[int], data: bytes, shown: NDArray[Any] | None = None) -> Value:
    """Bytes of a tensor whose type NumPy may not know; ``shown`` is what its sum is taken of."""
    value: Value = {
        "dtype": dtype,
        "shape": list(shape),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    if shown is not None and shown.dtype.kind in "biuf":
        value["sum"] = repr(float(shown.sum(dtype=np.float64)))
    return value


def numbers_in(tree: Any) -> Quantities:
    """All numbers of a JSON tree by their path; lists of nothing but numbers stay together.

    Truth is 1 or 0, null stays, since it says that a figure is undefined; text is passed over.
    """
    return {path: numbers(values) for path, values in _leaves(tree, "")}


def _leaves(tree: Any, path: str) -> Iterator[tuple[str, list[float | None]]]:
    if _is_number(tree):
        yield path, [tree]
    elif isinstance(tree, list) and tree and all(map(_is_number, tree)):
        yield path, tree
    elif isinstance(tree, (dict, list)):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(value, f"{path}.{name}" if path else str(name))


def _is_number(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float))
