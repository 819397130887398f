"""The errors that medad_fast raises on purpose.

Every bad input ends in a subclass of :class:`MedadError` whose message is one line that names the
file or the argument, what was found and what was wanted. ``exit_code`` is what the command line
returns for it.
"""

from __future__ import annotations

__all__ = [
    "BusyError",
    "CheckpointError",
    "DeviceError",
    "InputError",
    "LimitError",
    "MedadError",
    "MissingExtraError",
]


class MedadError(Exception):
    """Base of all errors of this package."""

    exit_code = 2


class InputError(MedadError, ValueError):
    """A file, folder, option or argument that cannot be used as it is."""


class LimitError(InputError):
    """An input larger than the stated limits (pixels, frames, decoded bytes)."""


class DeviceError(MedadError, RuntimeError):
    """The device or the disk cannot do what was asked: no GPU, no memory, no space."""

    exit_code = 4


class BusyError(MedadError, RuntimeError):
    """Another process is writing to the same folder."""

    exit_code = 5


class MissingExtraError(MedadError, ImportError):
    """A package that comes with an extra of medad-fast is not installed."""

    @classmethod
    def of(cls, error: ModuleNotFoundError, user: str, extra: str = "app") -> MissingExtraError:
        """Say what to install for ``user``, which could not import a package.

        A module of medad_fast itself that is missing is another fault: ``error`` is raised again.
        """
        package = (error.name or "").partition(".")[0]
        if package in ("", "medad_fast"):
            raise error
        return cls(f"{user} needs {package}: pip install 'medad-fast[{extra}]'", name=error.name)


class CheckpointError(MedadError, RuntimeError):
    """A saved run that is damaged, incomplete or of another format."""

    exit_code = 6
