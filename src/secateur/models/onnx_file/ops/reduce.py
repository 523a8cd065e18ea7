"""Sums, means and the like over dimensions."""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from secateur.models.onnx_file.host import Host, sizes_of, tensor_of
from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.registry import Refused, reads

__all__: list[str] = []


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keepdim=keep)
    return x


_REDUCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[list[Any]], Any] | None]] = {
    "ReduceMean": (lambda x, axes, keep: x.mean(axes, keepdim=keep), None),
    "ReduceSum": (lambda x, axes, keep: x.sum(axes, keepdim=keep), sum),
    "ReduceMax": (lambda x, axes, keep: torch.amax(x, axes, keepdim=keep), max),
    "ReduceMin": (lambda x, axes, keep: torch.amin(x, axes, keepdim=keep), min),
    "ReduceProd": (_product, lambda several: reduce(operator.mul, several, 1)),
    "ReduceL1": (lambda x, axes, keep: x.abs().sum(axes, keepdim=keep), None),
    "ReduceL2": (lambda x, axes, keep: torch.sqrt((x * x).sum(axes, keepdim=keep)), None),
    "ReduceSumSquare": (lambda x, axes, keep: (x * x).sum(axes, keepdim=keep), None),
    "ReduceLogSum": (lambda x, axes, keep: torch.log(x.sum(axes, keepdim=keep)), None),
    "ReduceLogSumExp": (lambda x, axes, keep: torch.logsumexp(x, axes, keepdim=keep), None),
}


@reads(*_REDUCTIONS)
def _reduce(node: OnnxNode, x: Any, axes: Any = None) -> Any:
    on_tensors, on_numbers = _REDUCTIONS[node.operator]
    keep = bool(node.attribute("keepdims", 1))
    if isinstance(x, Host) and on_numbers is not None:
        found = on_numbers(x.numbers)
        return Host([found]) if keep else Host(found)
    wanted = list(node.attribute("axes", ())) if axes is None else sizes_of(axes)
    if not wanted and node.attribute("noop_with_empty_axes", 0):
        return x
    x = tensor_of(x)
    return on_tensors(x, wanted or list(range(x.ndim)), keep)


@reads("ArgMax", "ArgMin")
def _argument(node: OnnxNode, x: Tensor) -> Tensor:
    if node.attribute("select_last_index", 0):
        raise Refused("names the last of several equal values")
    function = torch.argmax if node.operator == "ArgMax" else torch.argmin
    return function(x, node.attribute("axis", 0), keepdim=bool(node.attribute("keepdims", 1)))


@reads("TopK")
def _top_k(node: OnnxNode, x: Tensor, k: Any = None) -> tuple[Tensor, Tensor]:
    count = node.attribute("k") if k is None else sizes_of(k)[0]
    axis, largest = node.attribute("axis", -1), bool(node.attribute("largest", 1))
    values, indices = torch.topk(x, count, axis, largest, bool(node.attribute("sorted", 1)))
    return values, indices


@reads("CumSum")
def _cumulative(node: OnnxNode, x: Tensor, axis: Any) -> Tensor:
    dim = sizes_of(axis)[0]
    x = torch.flip(x, [dim]) if node.attribute("reverse", 0) else x
    found = torch.cumsum(x, dim)
    found = found - x if node.attribute("exclusive", 0) else found
    return torch.flip(found, [dim]) if node.attribute("reverse", 0) else found
