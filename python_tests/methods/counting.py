"""Which of torch's ops a piece of code calls."""

from __future__ import annotations

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode


class Counting(TorchDispatchMode):
    """Counts the ops that are called, by name, and keeps the shapes of what they return."""

    def __init__(self):
        super().__init__()
        self.calls = Counter()
        self.shapes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        result = function(*args, **(kwargs or {}))
        self.calls[name] += 1
        self.shapes.setdefault(name, []).append(getattr(result, "shape", None))
        return result
