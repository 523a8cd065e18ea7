"""Indexing with tensors: dimensions that are not indexed pass, indexed ones keep all their entries."""

from __future__ import annotations

from typing import Any

from secateur.graph.flow import Call
from secateur.graph.labels import Labels, Vector
from secateur.ops import operator
from secateur.ops.elementwise import join
from secateur.ops.pieces import without


@operator("aten.index_select")
def _index_select(call: Call) -> Labels:
    x: Labels = call["self"]
    dim = call["dim"] % x.ndim
    call.c.pin(*x.at(dim))
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})


@operator("aten.embedding")
def _embedding(call: Call) -> Labels:
    """Rows of a table (V, C) by number: the rows stay, the width passes."""
    weight, shape = call["weight"], call.shape
    call.c.pin(*weight.at(0))
    call.c.pin_all(call["indices"])
    return Labels(shape).with_dims({len(shape) - 1: weight.at(1)})


@operator("aten.index")
def _index(call: Call) -> Any:
    """x[i, :, j]: entries that tensors pick stay; the other dimensions keep their labels."""
    x: Labels = call["self"]
    picks = [p if isinstance(p, Labels) else None for p in call["indices"]]
    picks += [None] * (x.ndim - len(picks))
    picked = [d for d, p in enumerate(picks) if p is not None]
    for d in picked:
        call.c.pin(*x.at(d))
        call.c.pin_all(picks[d])  # type: ignore[arg-type]
    if not picked or any(p is not None and _boolean(call, d) for d, p in enumerate(picks)):
        return call.pin("indexing with a mask")
    width = max(p.ndim for p in picks if p is not None)
    together = picked == list(range(picked[0], picked[-1] + 1))
    start = picked[0] if together else 0
    left = [d for d in range(x.ndim) if d not in picked]
    dims: dict[int, tuple[Vector, ...]] = {}
    for place, d in enumerate(left):
        dims[place + width if place >= start else place] = x.at(d)
    return Labels(call.shape).with_dims(dims)


def _boolean(call: Call, place: int) -> bool:
    import torch

    value = call.nodes["indices"][place].meta.get("val")
    return value is not None and value.dtype in (torch.bool, torch.uint8)


@operator("aten.gather", "aten.take_along_dim")
def _gather(call: Call) -> Labels:
    """Picks along one dimension, position by position on the others."""
    x, index = call["self"], call["index"] if "index" in call.values else call["indices"]
    dim = (call.get("dim") or 0) % x.ndim
    call.c.pin(*x.at(dim), *index.at(dim))
    left = [without(t, dim) for t in (x, index)]
    if any(a != b for a, b in zip(left[0].shape, left[1].shape, strict=True)):
        call.c.pin_all(x)
        call.c.pin_all(index)
        return Labels(call.shape)
    joined = join(call.c, left, left[0].shape)
    return Labels(call.shape).with_dims({d + (d >= dim): v for d, v in joined.dims.items()})


@operator("aten.masked_select", "aten.nonzero", "aten.topk", "aten.sort", "aten.argsort", "aten.argmax", "aten.argmin")
def _positions(call: Call) -> Any:
    return call.pin("the result depends on where entries stand")
