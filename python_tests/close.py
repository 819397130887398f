"""Accuracy relative to plain torch, instead of hand-picked tolerances."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def assert_as_accurate_as(
    fused: Tensor, reference: Callable[[torch.dtype], Tensor], *, slack: float = 2.0
) -> None:
    """Fail if ``fused`` is further from the float64 truth than ``slack`` times plain torch is.

    A fixed tolerance says how wrong a kernel may be; this says it may not be much worse than the
    code it replaces, whatever the dtype and the size of the numbers. The floor of 8 eps is for
    float64, where truth and plain torch are the same.
    """
    truth = reference(torch.float64)
    plain = reference(fused.dtype).double()
    torch.testing.assert_close(fused.isnan(), truth.isnan(), rtol=0, atol=0)
    finite = truth.isfinite()
    if not finite.any():
        return
    plain_error = (plain - truth)[finite].abs().max()
    fused_error = (fused.double() - truth)[finite].abs().max()
    floor = 8 * torch.finfo(fused.dtype).eps * truth[finite].abs().max()
    assert fused_error <= slack * plain_error + floor, f"{fused_error=}, {plain_error=}, {floor=}"
