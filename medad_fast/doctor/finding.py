"""What one check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True)
class Finding:
    """``ok``, ``note`` (worth knowing), or ``wrong``: it would spoil a result or break something.

    No finding names a patient: files stand for them.
    """

    state: State
    check: str
    text: str
