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


class CheckpointError(MedadError, RuntimeError):
    """A saved run that is damaged, incomplete or of another format."""

    exit_code = 6
