"""What every DICOM result says of where it comes from."""

from __future__ import annotations

from dataclasses import dataclass

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSIS"


@dataclass(frozen=True)
class MapOrigin:
    """What made a map, and the scale that it is shown on."""

    method: str
    run: str
    """sha256 of the run's ``manifest.json``, or ``unsaved``."""
    version: str
    """Of medad_fast."""
    low: float
    """Map value, from normal validation images, at and below which nothing is shown."""
    high: float
    """Map value, from normal validation images, at and above which the colour stays the same."""

    def sentence(self) -> str:
        """All of it in words, at most 1,024 characters."""
        return (
            f"{NOT_FOR_DIAGNOSIS}. Anomaly map by medad_fast {self.version}, method {self.method}, "
            f"run sha256 {self.run}. Unitless; larger is less like the normal images of the run; "
            f"not a probability. Shown on the scale from {self.low:.6g} to {self.high:.6g}, which "
            "the run's normal validation images set."
        )[:1024]
