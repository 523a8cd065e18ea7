"""Depthwise convolutions in double precision, which PyTorch computes channel by channel there: many times faster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from secateur.graph.schema import bound

__all__ = ["depthwise", "is_depthwise"]

CHANNELS_PER_TAP = 4
"""From this many channels (of all samples) per entry of the kernel on it is faster so."""


def is_depthwise(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Whether a convolution over images, in double precision on the CPU, has one small filter for each channel."""
    if func is not torch.ops.aten.conv2d.default or len(args) < 7 or kwargs:
        return False
    x, weight = args[0], args[1]
    return bool(
        args[6] > 1 and x.ndim == 4 and x.shape[1] == args[6] == weight.shape[0]
        and x.dtype == weight.dtype == torch.float64 and not x.device.index and x.device.type == "cpu"
        and x.shape[0] * x.shape[1] >= CHANNELS_PER_TAP * weight.shape[2] * weight.shape[3]
    )  # fmt: skip


def depthwise(func: Any, args: Sequence[Any]) -> Tensor:
    """The convolution as a sum over the entries of its kernel.

    Formula: y[c, o] = b[c] + Σ_k w[c, k] · x[c, o·stride − padding + k·dilation], of what lies inside x.

    >>> conv = torch.ops.aten.conv2d.default
    >>> x, w = torch.randn(1, 8, 5, 5, dtype=torch.float64), torch.randn(8, 1, 3, 3, dtype=torch.float64)
    >>> args = x, w, None, [2, 1], [1, 2], [1, 2], 8
    >>> torch.allclose(depthwise(conv, args), conv(*args))
    True
    """
    call = bound(func, args, {})
    x, weight, bias = call["input"], call["weight"], call["bias"]
    stride, padding, dilation = (_pair(call[name]) for name in ("stride", "padding", "dilation"))
    size = [
        (x.shape[d + 2] + 2 * padding[d] - dilation[d] * (weight.shape[d + 2] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    ]
    shape = (x.shape[0], weight.shape[0], *size)
    out: Tensor = x.new_zeros(shape) if bias is None else bias.view(-1, 1, 1).expand(shape).clone()
    taps = [
        [_reached(k * dilation[d] - padding[d], stride[d], x.shape[d + 2], size[d]) for k in range(weight.shape[d + 2])]
        for d in (0, 1)
    ]
    for i, (to_rows, from_rows) in enumerate(taps[0]):
        for j, (to_columns, from_columns) in enumerate(taps[1]):
            factor = weight[:, 0, i, j].view(-1, 1, 1)
            out[:, :, to_rows, to_columns].addcmul_(x[:, :, from_rows, from_columns], factor)
    return out


def _pair(value: Any) -> tuple[int, int]:
    values: list[int] = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]


def _reached(shift: int, stride: int, source: int, result: int) -> tuple[slice, slice]:
    """Which entries of the result one entry of the kernel adds to, and of which entries of the input."""
    first = max(0, -(shift // stride))
    last = min(result - 1, (source - 1 - shift) // stride)
    start = first * stride + shift
    count = max(0, last - first + 1)
    return slice(first, first + count), slice(start, start + max(0, (count - 1) * stride + 1) * (count > 0), stride)
