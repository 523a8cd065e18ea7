"""Indexing with tensors: dimensions that are not indexed pass, indexed ones keep all their entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from secateur.graph.flow import Call, shape_of, unlabelled
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.ops.pieces import without
from secateur.graph.ops.routing import picked as picked_by
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

__all__ = ["Pointer", "pointer"]


@dataclass(frozen=True)
class Pointer:
    """An operator that picks entries of one dimension by numbers that are a constant or buffer of the network.

    Attributes:
        source: What is picked from.
        dim: Along which dimension.
        name: Name of the tensor of numbers.
        numbers: The numbers, none negative.
    """

    source: Node
    dim: int
    name: str
    numbers: tuple[int, ...]


def pointer(node: Node) -> Pointer | None:
    """What ``node`` points at, ``None`` where it is another operator or its numbers are not known.

    Rows that are picked from a parameter (a table of position biases) are left as they are.
    """
    name, args = str(getattr(node.target, "overloadpacket", "")), node.args
    dim: Any
    index: Any
    if name == "aten.index_select":
        source, dim, index = args[:3]
    elif name == "aten.index":
        given: Any = args[1]
        picks = [(d, p) for d, p in enumerate(given) if p is not None]
        if len(picks) != 1:
            return None
        source, (dim, index) = args[0], picks[0]
    else:
        return None
    if not isinstance(source, Node) or not isinstance(index, Node) or index.op != "get_attr":
        return None
    value = attrgetter(str(index.target))(node.graph.owning_module)
    if source.op == "get_attr" or value.ndim != 1 or value.dtype not in (torch.int64, torch.int32):
        return None
    shape = shape_of(source)
    size = shape[dim]
    if not size:  # it depends on the data
        return None
    return Pointer(source, dim % len(shape), str(index.target), tuple(int(i) % size for i in value))


def _rewrite_pointer(r: Rewriter) -> None:
    found = pointer(r.dense)
    if found is not None and r.changes(r.copy(found.source), found.dim):
        r.select(r.copy(found.source), found.dim, found.numbers)


def _pointed(call: Call, found: Pointer) -> Labels:
    """Labels move with the numbers; the numbers themselves are rewritten when what they point at goes."""
    x: Labels = call.flow.labels[found.source]
    numbers = np.array(found.numbers, dtype=np.int64)
    dims = {d: tuple(v[numbers] for v in vs) if d == found.dim else vs for d, vs in x.dims.items()}
    return Labels(call.shape).with_dims(dims)


@operator("aten.index_select", rewrite=_rewrite_pointer)
def _index_select(call: Call) -> Labels:
    found = pointer(call.node)
    if found is not None:
        return _pointed(call, found)
    x: Labels = call["self"]
    dim = call["dim"] % x.ndim
    _hold(call, x, [dim])
    call.c.pin_all(call["index"])
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})


def _hold(call: Call, x: Labels, dims: Sequence[int]) -> None:
    """Pins the dimensions that numbers point into, and reports it: which entries they name depends on their values."""
    call.hold("entries are picked by their numbers", [x.with_dims({d: x.at(d) for d in dims})])


@operator("aten.embedding")
def _embedding(call: Call) -> Labels:
    """Rows of a table (V, C) by number: the rows stay, the width passes.

    The rows of a parameter are a vocabulary and are kept without a word, as inputs are; what was computed is reported.
    """
    weight, shape = call["weight"], call.shape
    if call.nodes["weight"].op == "get_attr":
        call.c.pin(*weight.at(0))
    else:
        _hold(call, weight, [0])
    call.c.pin_all(call["indices"])
    return Labels(shape).with_dims({len(shape) - 1: weight.at(1)})


@operator("aten.embedding_bag", "aten._embedding_bag")
def _embedding_bag(call: Call) -> list[Any]:
    """Sums, means or maxima of rows of a table (V, C): the rows stay, the width passes."""
    weight = call["weight"]
    call.c.pin(*weight.at(0))
    for name in ("indices", "offsets", "per_sample_weights"):
        if isinstance(call.get(name), Labels):
            call.c.pin_all(call[name])
    found = unlabelled(call.node)
    return [found[0].with_dims({1: weight.at(1)}), *found[1:]]


@operator("aten.index", rewrite=_rewrite_pointer, numbers=True)
def _index(call: Call) -> Any:
    """x[i, :, j]: entries that tensors pick stay; the other dimensions keep their labels."""
    found = pointer(call.node)
    if found is not None:
        call.point("values are used that are numbers of entries")
        return _pointed(call, found)
    x: Labels = call["self"]
    picks = [p if isinstance(p, Labels) else None for p in call["indices"]]
    picks += [None] * (x.ndim - len(picks))
    picked = [d for d, p in enumerate(picks) if p is not None]
    if not picked or any(p is not None and _boolean(call, d) for d, p in enumerate(picks)):
        call.point("indexing with a mask")
        return call.pin("indexing with a mask")
    if len(picked) == 1 and picked_by(call, x, picked[0], picks[picked[0]]):  # type: ignore[arg-type]
        pass
    elif isinstance(source := call.nodes["self"], Node) and source.op == "get_attr":  # a table, as a vocabulary is
        call.c.pin(*(v for d in picked for v in x.at(d)))
        _unpoint(call, picks)
    else:
        _hold(call, x, picked)
        _unpoint(call, picks)
    for d in picked:
        call.c.pin_all(picks[d])  # type: ignore[arg-type]
    width = max(p.ndim for p in picks if p is not None)
    together = picked == list(range(picked[0], picked[-1] + 1))
    start = picked[0] if together else 0
    left = [d for d in range(x.ndim) if d not in picked]
    dims: dict[int, tuple[Vector, ...]] = {}
    for place, d in enumerate(left):
        dims[place + width if place >= start else place] = x.at(d)
    return Labels(call.shape).with_dims(dims).pointing(x.points)


def _unpoint(call: Call, picks: Sequence[Labels | None]) -> None:
    """Pins what the numbers point at that pick from some other dimension."""
    for pick in picks:
        if pick is not None and pick.points is not None:
            call.hold("numbers of entries pick from another dimension than theirs",
                      [Labels(pick.points.shape, {0: (pick.points,)})])  # fmt: skip


def _boolean(call: Call, place: int) -> bool:
    value = call.nodes["indices"][place].meta.get("val")
    return value is not None and value.dtype in (torch.bool, torch.uint8)


@operator("aten.gather", "aten.take_along_dim", numbers=True)
def _gather(call: Call) -> Any:
    """Picks along one dimension, position by position on the others."""
    x, index = call["self"], call["index"] if "index" in call.values else call["indices"]
    dim = (call.get("dim") or 0) % x.ndim
    if not picked_by(call, x, dim, index):
        _hold(call, x, [dim])
        call.point("numbers of entries pick from another dimension than theirs")
    call.c.pin(*index.at(dim))
    left = [without(t, dim) for t in (x, index)]
    if any(a != b for a, b in zip(left[0].shape, left[1].shape, strict=True)):
        return call.pin("the index is smaller than what it picks from")
    joined = join(call.c, left, left[0].shape)
    return Labels(call.shape).with_dims({d + (d >= dim): v for d, v in joined.dims.items()}).pointing(x.points)


@operator("aten.masked_select", "aten.nonzero", "aten.argsort", "aten.argmax", "aten.argmin")
def _positions(call: Call) -> Any:
    return call.pin("the result depends on where entries stand")
