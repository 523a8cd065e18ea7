"""Sizes, and operators that are called with sizes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.host import LARGEST, Host, is_host, sizes_of, tensor_of
from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__ = ["MOST", "allowed"]

MOST = 2**31
"""Numbers of one tensor; more are refused before they are allocated."""


def allowed(sizes: Any) -> Any:
    """Sizes of a tensor that is made, if it can be.

    Raises:
        Refused: It would be too large.
    """
    count = math.prod(int(s) for s in sizes)
    if count > MOST:
        raise Refused(f"makes a tensor of {count:,} numbers; {MOST:,} are the most")
    return sizes


@reads("Shape")
def _shape(node: OnnxNode, x: Any) -> Host:
    sizes = list(x.array.shape if isinstance(x, Host) else x.shape)
    return Host(sizes[node.attribute("start", 0) : node.attribute("end", len(sizes))])


@reads("Size")
def _size(node: OnnxNode, x: Any) -> Host:
    return Host(math.prod(x.array.shape if isinstance(x, Host) else x.shape))


@reads("Reshape")
def _reshape(node: OnnxNode, x: Any, shape: Any = None) -> Any:
    wanted = list(node.attribute("shape", ())) if shape is None else sizes_of(shape)
    if isinstance(x, Host):
        return x.reshaped(wanted)
    if not node.attribute("allowzero", 0):
        wanted = [x.shape[k] if type(s) is int and s == 0 else s for k, s in enumerate(wanted)]
    return x.reshape(wanted)


@reads("Flatten")
def _flatten(node: OnnxNode, x: Tensor) -> Tensor:
    axis = node.attribute("axis", 1)
    axis = axis + x.ndim if axis < 0 else axis
    if axis == 1 and x.ndim > 1:
        return x.flatten(1)
    if axis == 0:
        return x.reshape(1, -1)
    return x.reshape(math.prod(x.shape[:axis]), -1)


@reads("Transpose")
def _transpose(node: OnnxNode, x: Any) -> Any:
    if isinstance(x, Host):
        return Host(x.array.transpose(node.attribute("perm")))
    return x.permute(list(node.attribute("perm", range(x.ndim - 1, -1, -1))))


@reads("Squeeze")
def _squeeze(node: OnnxNode, x: Any, axes: Any = None) -> Any:
    wanted = node.attribute("axes") if axes is None else sizes_of(axes)
    if isinstance(x, Host):
        return Host(x.array.squeeze(None if wanted is None else tuple(wanted)))
    if wanted is None:
        return x.squeeze()
    for axis in wanted:
        if x.shape[axis] != 1:
            raise Refused(f"drops dimension {axis} of a tensor of shape {tuple(x.shape)}, which is not of size 1")
    return x.squeeze(list(wanted))


@reads("Unsqueeze")
def _unsqueeze(node: OnnxNode, x: Any, axes: Any = None) -> Any:
    wanted = list(node.attribute("axes") if axes is None else sizes_of(axes))
    if isinstance(x, Host):
        return Host(np.expand_dims(x.array, tuple(wanted)))
    final = x.ndim + len(wanted)
    for axis in sorted(axis % final for axis in wanted):
        x = x.unsqueeze(axis)
    return x


@reads("Concat")
def _concat(node: OnnxNode, *parts: Any) -> Any:
    if is_host(*parts):
        return Host(np.concatenate([part.array for part in parts], node.attribute("axis")))
    like = next(part for part in parts if isinstance(part, Tensor))
    return torch.cat([tensor_of(part, like) for part in parts], node.attribute("axis"))


@reads("Expand")
def _expand(node: OnnxNode, x: Any, shape: Any) -> Any:
    wanted = sizes_of(shape)
    if isinstance(x, Host) and len(wanted) == 1 and wanted[0] <= LARGEST:
        return Host(np.broadcast_to(x.array, (int(wanted[0]),)))
    x = tensor_of(x)
    wanted = [1] * (x.ndim - len(wanted)) + wanted
    first = len(wanted) - x.ndim
    # Where ONNX says 1, the tensor's own size stays.
    return x.expand(allowed([-1 if s == 1 and k >= first else s for k, s in enumerate(wanted)]))


@reads("Tile")
def _tile(node: OnnxNode, x: Any, repeats: Any) -> Any:
    times = sizes_of(repeats)
    if isinstance(x, Host) and len(times) == 1 and x.array.size * times[0] <= LARGEST:
        return Host(np.tile(x.array, int(times[0])))
    x = tensor_of(x)
    allowed([size * count for size, count in zip(x.shape, times, strict=True)])
    return x.repeat(times)


@reads("Pad", numbers=True)
def _pad(node: OnnxNode, x: Tensor, pads: Any = None, value: Any = None, axes: Any = None) -> Tensor:
    amounts = list(node.attribute("pads", node.attribute("paddings"))) if pads is None else sizes_of(pads)
    of = list(range(x.ndim)) if axes is None else [axis % x.ndim for axis in sizes_of(axes)]
    half = len(amounts) // 2
    pairs = dict(zip(of, zip(amounts[:half], amounts[half:], strict=True), strict=True))
    first = min((axis for axis, pair in pairs.items() if any(pair)), default=x.ndim)
    mode = node.attribute("mode", "constant")
    flat = [amount for axis in range(x.ndim - 1, first - 1, -1) for amount in pairs.get(axis, (0, 0))]
    allowed([size + sum(pairs.get(axis, (0, 0))) for axis, size in enumerate(x.shape)])
    if not flat:
        return x
    if mode == "constant":
        fill = node.attribute("value", 0.0) if value is None else value.number if isinstance(value, Host) else None
        if fill is None:
            raise Refused("pads with a value that is computed from the data")
        return F.pad(x, flat, value=fill)
    return F.pad(x, flat, {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


@reads("ConstantOfShape")
def _constant_of_shape(node: OnnxNode, shape: Any) -> Any:
    sizes, value = sizes_of(shape), node.attribute("value", 0.0)
    if not isinstance(value, float) and len(sizes) == 1 and sizes[0] <= LARGEST:
        return Host([value] * int(sizes[0]))
    return torch.full(allowed(sizes), value, dtype=_kind(value))


def _kind(value: Any) -> torch.dtype:
    return torch.bool if isinstance(value, bool) else torch.int64 if isinstance(value, int) else torch.float32


@reads("Range")
def _range(node: OnnxNode, start: Any, limit: Any, delta: Any) -> Tensor:
    first, end, step = (sizes_of(v)[0] for v in (start, limit, delta))
    if not step:
        raise Refused("counts in steps of 0")
    allowed([max(int((end - first) / step), 0)])
    return torch.arange(first, end, step)


@reads("Trilu")
def _triangle(node: OnnxNode, x: Tensor, k: Any = None) -> Tensor:
    diagonal = 0 if k is None else sizes_of(k)[0]
    return torch.triu(x, diagonal) if node.attribute("upper", 1) else torch.tril(x, diagonal)


@reads("OneHot", numbers=True)
def _one_hot(node: OnnxNode, indices: Tensor, depth: Any, values: Any) -> Tensor:
    count, (off, on) = sizes_of(depth)[0], (values.numbers if isinstance(values, Host) else values.unbind())
    allowed([*indices.shape, count])
    wrapped = torch.where(indices < 0, indices + count, indices)
    hot: Tensor = F.one_hot(wrapped, int(count)) * (on - off) + off
    return hot.movedim(-1, node.attribute("axis", -1))
