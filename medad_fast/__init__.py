"""Fast unsupervised anomaly detection in medical images: five methods, fused C++/CUDA ops.

Importing this package is cheap: every name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from pkgutil import extend_path
from types import ModuleType
from typing import TYPE_CHECKING

# A source tree on sys.path (pytest started in a checkout, say) comes before the installed package
# and has no compiled `_C`. Searching every medad_fast folder on sys.path finds the installed one.
__path__ = extend_path(__path__, __name__)

if TYPE_CHECKING:
    from medad_fast import errors, methods, ops
    from medad_fast.artifacts.run import load
    from medad_fast.ops._native import build_info
    from medad_fast.verbs.compare import compare
    from medad_fast.verbs.evaluate import evaluate
    from medad_fast.verbs.fit import fit
    from medad_fast.verbs.predict import predict

    __version__: str

__all__ = [
    "__version__",
    "build_info",
    "compare",
    "errors",
    "evaluate",
    "fit",
    "load",
    "methods",
    "ops",
    "predict",
]

_HOME = {
    "build_info": "medad_fast.ops._native",
    "compare": "medad_fast.verbs.compare",
    "evaluate": "medad_fast.verbs.evaluate",
    "fit": "medad_fast.verbs.fit",
    "load": "medad_fast.artifacts.run",
    "predict": "medad_fast.verbs.predict",
}
"""Where each public function lives."""

_MODULES = ("errors", "methods", "ops")


def __getattr__(name: str) -> object:
    if name in _HOME:
        value: object = getattr(_import(name, _HOME[name]), name)
    elif name in _MODULES:
        value = _import(name, f"{__name__}.{name}")
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def _import(name: str, module: str) -> ModuleType:
    """Import the home of a public name, which may need packages that the ops alone do not."""
    from medad_fast.errors import MissingExtraError

    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise MissingExtraError.of(error, f"medad_fast.{name}") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("medad-fast")
    except PackageNotFoundError:
        return "0+uninstalled"
