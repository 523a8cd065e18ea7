"""Convolutions and pooling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__: list[str] = []

_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEANS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _dims(x: Tensor) -> int:
    """Dimensions besides batch and channels."""
    if x.ndim not in (3, 4, 5):
        raise Refused(f"works on 1 to 3 dimensions besides batch and channels; it is given {x.ndim - 2}")
    return x.ndim - 2


def _pads(node: OnnxNode, x: Tensor, kernel: Sequence[int], strides: Sequence[int], steps: Sequence[int]) -> list[Any]:
    """What is added before and behind every dimension."""
    dims, how = len(kernel), node.attribute("auto_pad", "NOTSET")
    if how == "NOTSET":
        pads = node.attribute("pads", (0,) * (2 * dims))
        return list(zip(pads[:dims], pads[dims:], strict=True))
    if how == "VALID":
        return [(0, 0)] * dims
    found = []
    for size, k, stride, step in zip(x.shape[2:], kernel, strides, steps, strict=True):
        more = max((-(-size // stride) - 1) * stride + (k - 1) * step + 1 - size, 0)
        found.append((more // 2, more - more // 2) if how == "SAME_UPPER" else (more - more // 2, more // 2))
    return found


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    flat = [amount for pair in reversed(pads) for amount in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


@reads("Conv", names={"W": "weight", "B": "bias"})
def _conv(node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dims = _dims(x)
    ones = (1,) * dims
    strides, steps = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = _pads(node, x, weight.shape[2:], strides, steps)
    padding = [before for before, _ in pads]
    if any(before != behind for before, behind in pads):
        x, padding = _padded(x, pads), [0] * dims
    return _CONVOLUTIONS[dims](x, weight, bias, list(strides), padding, list(steps), node.attribute("group", 1))


@reads("ConvTranspose", names={"W": "weight", "B": "bias"})
def _transposed(node: OnnxNode, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    dims = _dims(x)
    ones, kernel = (1,) * dims, weight.shape[2:]
    strides, steps = node.attribute("strides", ones), node.attribute("dilations", ones)
    more = node.attribute("output_padding", (0,) * dims)
    wanted = node.attribute("output_shape")
    if wanted is None and node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        wanted = [size * stride for size, stride in zip(x.shape[2:], strides, strict=True)]
    pads = node.attribute("pads", (0,) * (2 * dims))
    pairs = list(zip(pads[:dims], pads[dims:], strict=True))
    if wanted is not None:
        pairs = []
        for size, k, stride, step, extra, out in zip(
            x.shape[2:], kernel, strides, steps, more, wanted[-dims:], strict=True
        ):
            total = stride * (size - 1) + extra + (k - 1) * step + 1 - out
            first = total // 2 if node.attribute("auto_pad") == "SAME_UPPER" else total - total // 2
            pairs.append((first, total - first))
    group = node.attribute("group", 1)
    if all(before == behind for before, behind in pairs):
        padding = [before for before, _ in pairs]
        return _TRANSPOSED[dims](x, weight, bias, list(strides), padding, list(more), group, list(steps))
    whole = _TRANSPOSED[dims](x, weight, bias, list(strides), [0] * dims, list(more), group, list(steps))
    for dim, (before, behind) in enumerate(pairs):
        whole = whole.narrow(dim + 2, before, whole.shape[dim + 2] - before - behind)
    return whole


def _window(node: OnnxNode, x: Tensor) -> tuple[list[int], list[int], list[int], list[Any], bool]:
    kernel = node.attribute("kernel_shape")
    ones = (1,) * len(kernel)
    strides, steps = node.attribute("strides", ones), node.attribute("dilations", ones)
    pads = _pads(node, x, kernel, strides, steps)
    return list(kernel), list(strides), list(steps), pads, bool(node.attribute("ceil_mode", 0))


def _uneven(kernel: Sequence[int], pads: Sequence[tuple[int, int]]) -> bool:
    """Whether PyTorch cannot pad so itself."""
    return any(a != b or a > k // 2 for (a, b), k in zip(pads, kernel, strict=True))


@reads("MaxPool")
def _max_pool(node: OnnxNode, x: Tensor) -> Tensor:
    if any(node.outputs[1:]):
        raise Refused("gives the indices of the maxima")
    dims = _dims(x)
    kernel, strides, steps, pads, ceil = _window(node, x)
    padding = [before for before, _ in pads]
    if _uneven(kernel, pads):
        x, padding = _padded(x, pads, float("-inf")), [0] * dims
    return _MAXIMA[dims](x, kernel, strides, padding, steps, ceil)


@reads("AveragePool")
def _average_pool(node: OnnxNode, x: Tensor) -> Tensor:
    dims = _dims(x)
    kernel, strides, steps, pads, ceil = _window(node, x)
    if any(step != 1 for step in steps):
        raise Refused("averages over windows with gaps (dilations)")
    counted = bool(node.attribute("count_include_pad", 0))
    if not _uneven(kernel, pads):
        return _MEANS[dims](x, kernel, strides, [before for before, _ in pads], ceil, counted)
    mean = _MEANS[dims](_padded(x, pads), kernel, strides, 0, ceil)
    if counted:
        return mean
    share = _MEANS[dims](_padded(torch.ones_like(x[:1, :1]), pads), kernel, strides, 0, ceil)
    return mean / share


@reads("GlobalAveragePool")
def _global_average(node: OnnxNode, x: Tensor) -> Tensor:
    return x.mean(list(range(2, x.ndim)), keepdim=True)


@reads("GlobalMaxPool")
def _global_max(node: OnnxNode, x: Tensor) -> Tensor:
    return torch.amax(x, list(range(2, x.ndim)), keepdim=True)
