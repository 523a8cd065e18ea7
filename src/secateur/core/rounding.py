"""How far apart two ways of computing the same may come out, by the precision that they compute in."""

from __future__ import annotations

import torch

__all__ = ["rounding"]

_UNITS = 16
"""Units in the last place: what some dozen layers add up to."""


def rounding(dtype: torch.dtype, least: float) -> float:
    """The relative difference that rounding alone explains: 16 ε of the type, and at least ``least``.

    >>> rounding(torch.float32, 1e-3), rounding(torch.bfloat16, 1e-3)
    (0.001, 0.125)
    """
    return max(least, _UNITS * torch.finfo(dtype).eps) if dtype.is_floating_point else least
