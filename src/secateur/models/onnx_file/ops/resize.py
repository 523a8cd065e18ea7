"""Images in other sizes, and at other places."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.models.onnx_file.host import Host, sizes_of
from secateur.models.onnx_file.node import OnnxNode
from secateur.models.onnx_file.ops.shapes import allowed
from secateur.models.onnx_file.registry import Refused, reads

__all__: list[str] = []

_LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


@reads("Upsample", lists=("scales",))
def _upsample(node: OnnxNode, x: Tensor, scales: Any = None) -> Tensor:
    return _by_factors(node, x, list(node.attribute("scales", ())) if scales is None else _numbers(scales))


def _by_factors(node: OnnxNode, x: Tensor, factors: list[float]) -> Tensor:
    if node.attribute("mode", "nearest") != "nearest":
        raise Refused("resizes linearly in the way of versions before 11, which PyTorch does not have")
    return _nearest(x, *_wanted(node, x, factors, None), "asymmetric", "floor")


@reads("Resize", lists=("scales", "roi"))
def _resize(node: OnnxNode, x: Tensor, *given: Any) -> Tensor:
    """Inputs (scales) before version 11, (roi, scales, sizes) after."""
    if node.opset < 11:
        return _by_factors(node, x, _numbers(given[0]))
    scales, sizes = (given[k] if len(given) > k else None for k in (1, 2))
    factors = None if scales is None or not _numbers(scales) else _numbers(scales)
    out, ratios = _wanted(node, x, factors, None if sizes is None else sizes_of(sizes))
    mode, how = node.attribute("mode", "nearest"), node.attribute("coordinate_transformation_mode", "half_pixel")
    if node.attribute("antialias", 0) or node.attribute("exclude_outside", 0):
        raise Refused("resizes with antialias or exclude_outside")
    if mode == "nearest":
        return _nearest(x, out, ratios, how, node.attribute("nearest_mode", "round_prefer_floor"))
    if mode == "cubic" and abs(node.attribute("cubic_coeff_a", -0.75) + 0.75) > 1e-6:
        raise Refused("resizes by cubic curves of another slope than -0.75")
    known = {"half_pixel": False, "pytorch_half_pixel": False, "align_corners": True}
    if how not in known or (how == "pytorch_half_pixel" and 1 in out):
        raise Refused(f"resizes in the mode {mode!r} at coordinates {how!r}")
    kind = _LINEAR[len(out)] if mode == "linear" else "bicubic"
    if how == "align_corners":
        return F.interpolate(x, size=out, mode=kind, align_corners=True)
    if _exact(x, out, ratios):
        return F.interpolate(x, size=out, mode=kind, align_corners=False)
    return F.interpolate(x, scale_factor=ratios, mode=kind, align_corners=False, recompute_scale_factor=False)


def _numbers(scales: Any) -> list[float]:
    if isinstance(scales, Host):
        return scales.numbers
    raise Refused("resizes by factors that depend on the values of the data")


def _wanted(node: OnnxNode, x: Tensor, factors: Any, sizes: Any) -> tuple[list[int], list[float]]:
    """The new heights and widths, and what they are times the old ones."""
    given = sizes if factors is None else factors
    if given is None:
        raise Refused("names neither sizes nor factors")
    axes = [axis % x.ndim for axis in node.attribute("axes", range(x.ndim))]
    by_axis = dict(zip(axes, given, strict=True))
    if factors is not None:
        if any(by_axis.get(axis, 1.0) != 1.0 for axis in (0, 1)):
            raise Refused("resizes the batch or the channels")
        ratios = [by_axis.get(axis, 1.0) for axis in range(2, x.ndim)]
        out = [math.floor(size * ratio) for size, ratio in zip(x.shape[2:], ratios, strict=True)]
    else:
        if node.attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise Refused("keeps the ratio of height to width")
        if any(by_axis.get(axis, x.shape[axis]) != x.shape[axis] for axis in (0, 1)):
            raise Refused("resizes the batch or the channels")
        out = [by_axis.get(axis, x.shape[axis]) for axis in range(2, x.ndim)]
        ratios = [new / old for new, old in zip(out, x.shape[2:], strict=True)]
    allowed([*x.shape[:2], *out])
    return out, ratios


def _exact(x: Tensor, out: list[int], ratios: list[float]) -> bool:
    """Whether the new sizes are the old ones times the factors, with nothing cut off."""
    return all(abs(old * ratio - new) < 1e-6 for old, ratio, new in zip(x.shape[2:], ratios, out, strict=True))


_ROUND: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
}


def _nearest(x: Tensor, out: list[int], ratios: list[float], how: str, rounds: str) -> Tensor:
    """Every pixel is one of the old ones; where PyTorch picks the same ones, its own operator does it."""
    exact = _exact(x, out, ratios)
    whole = exact and all(ratio >= 1 and ratio == int(ratio) for ratio in ratios)
    if (exact and (how, rounds) == ("asymmetric", "floor")) or (
        whole and (how, rounds) == ("half_pixel", "round_prefer_floor")
    ):
        return F.interpolate(x, size=out, mode="nearest")
    for dim, (new, ratio) in enumerate(zip(out, ratios, strict=True), start=2):
        places = _ROUND[rounds](_coordinates(how, x.shape[dim], new, ratio)).long()
        x = x.index_select(dim, places.clamp(0, x.shape[dim] - 1).to(x.device))
    return x


def _coordinates(how: str, old: int, new: int, ratio: float) -> Tensor:
    """Where the new pixels lie among the old ones."""
    places = torch.arange(new, dtype=torch.float32)
    if how == "asymmetric":
        return places / ratio
    if how in ("half_pixel", "pytorch_half_pixel"):
        return (places + 0.5) / ratio - 0.5 if how == "half_pixel" or new > 1 else places * 0
    if how == "align_corners":
        return places * ((old - 1) / (new - 1)) if new > 1 else places * 0
    raise Refused(f"resizes at coordinates {how!r}")


@reads("GridSample")
def _grid_sample(node: OnnxNode, x: Tensor, grid: Tensor) -> Tensor:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(found := node.attribute("mode", "bilinear"), found)
    padding, corners = node.attribute("padding_mode", "zeros"), bool(node.attribute("align_corners", 0))
    return F.grid_sample(x, grid, mode, padding, corners)
