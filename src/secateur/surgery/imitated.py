"""Fake quantisation in double precision, which PyTorch computes in single precision alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.graph.schema import bound

__all__ = ["fake_quantised"]

GRID = 2.0**24
"""Where rounding has to decide between two steps, sums that differ in their last bits decide the same way."""


def fake_quantised(func: Any, args: Any, kwargs: Any, *, soft: bool = False) -> Any:
    """(clamp(round(x / scale) + zero_point, quant_min, quant_max) − zero_point) · scale, without observing anything.

    Means of a few quantised values lie exactly between two steps, so that a last bit would decide; x / scale is first
    rounded to :data:`GRID`, which moves these places to where values lie by chance alone.

    Args:
        func: One of PyTorch's operators for it.
        args: What it is called with, in double precision.
        kwargs: The same, by name.
        soft: Nothing is rounded, and of what lies beyond the limits half is left: then no difference hides between two
            steps, or behind a limit.
    """
    call = bound(func, args, kwargs)
    x: Tensor = call["self"]
    on = call.get("fake_quant_on")
    if on is not None and not bool(on.any()):
        result, inside = x.clone(), torch.ones_like(x, dtype=torch.bool)
    else:
        scale, zero = (_along(call, name, x) for name in ("scale", "zero_point"))
        steps = x / scale if soft else (((x / scale) * GRID).round() / GRID).round()
        wanted = steps + zero
        held = wanted.clamp(call["quant_min"], call["quant_max"])
        held = (wanted + held) / 2 if soft else held
        result, inside = (held - zero) * scale, held == wanted
    return (result, inside) if len(func._schema.returns) > 1 else result


def _along(call: dict[str, Any], name: str, x: Tensor) -> Any:
    """A scale or zero point along the channels; zero points are whole numbers, whatever they are held in."""
    value = call[name]
    if not isinstance(value, Tensor):
        return value
    value = value.to(x.dtype)
    value = value.round() if name == "zero_point" else value
    axis = call.get("axis", call.get("ch_axis", -1))
    if value.numel() == 1 or not call.get("per_row_fake_quant", True):
        return value.reshape(-1)[0] if value.numel() == 1 else value
    shape = [1] * x.ndim
    shape[axis] = -1
    return value.view(shape)
