"""Indexing with tensors: dimensions that are not indexed pass, indexed ones keep all their entries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.fx import Node

from secateur.graph.flow import Call, shape_of, unlabelled
from secateur.graph.labels import Labels
from secateur.graph.ops.elementwise import join
from secateur.graph.ops.pieces import without
from secateur.graph.ops.routing import picked
from secateur.graph.reasons import BY_NUMBER, BY_VALUE, CHOSEN, ELSEWHERE, ROWS
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

__all__ = ["Picks", "Pointer", "hold_numbers", "picks_of", "pointer"]


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
    hold_numbers(call, x, [dim])
    call.c.pin_all(call["index"])
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})


def hold_numbers(call: Call, x: Labels, dims: Sequence[int], reason: str = BY_NUMBER) -> None:
    """Pins the dimensions that numbers point into, and reports it: which entries they name depends on their values."""
    call.hold(reason, [x.with_dims({d: x.at(d) for d in dims})])


@operator("aten.embedding")
def _embedding(call: Call) -> Labels:
    """Rows of a table (V, C) by number: the rows stay, the width passes.

    The rows of a parameter are a vocabulary and are kept without a word, as inputs are; what was computed is reported.
    """
    weight, shape = call["weight"], call.shape
    if call.nodes["weight"].op == "get_attr":
        call.c.pin(*weight.at(0), reason=ROWS)
    else:
        hold_numbers(call, weight, [0])
    call.c.pin_all(call["indices"])
    return Labels(shape).with_dims({len(shape) - 1: weight.at(1)})


@operator("aten.embedding_bag", "aten._embedding_bag")
def _embedding_bag(call: Call) -> list[Any]:
    """Sums, means or maxima of rows of a table (V, C): the rows stay, the width passes."""
    weight = call["weight"]
    call.c.pin(*weight.at(0), reason=ROWS)
    for name in ("indices", "offsets", "per_sample_weights"):
        if isinstance(call.get(name), Labels):
            call.c.pin_all(call[name])
    found = unlabelled(call.node)
    return [found[0].with_dims({1: weight.at(1)}), *found[1:]]


@dataclass(frozen=True)
class Picks:
    """What ``x[i, :, mask]`` picks.

    Attributes:
        dims: Dimensions that tensors pick from.
        left: The others.
        width: How many dimensions of the result the picked ones become.
        start: Where these stand.
        tensors: The tensors that pick.
        masks: Those of them that are masks, by the first dimension that they cover.
    """

    dims: tuple[int, ...]
    left: tuple[int, ...]
    width: int
    start: int
    tensors: tuple[Labels, ...]
    masks: Mapping[int, Labels]

    def places(self) -> dict[int, int]:
        """Where the dimensions that are not picked stand in the result."""
        return {d: place + (self.width if place >= self.start else 0) for place, d in enumerate(self.left)}


def picks_of(call: Call) -> Picks:
    """Which dimensions of ``self`` the tensors among ``indices`` pick from; a mask covers as many as it has."""
    x, d, gaps = call["self"], 0, 0
    dims: list[int] = []
    tensors: list[Labels] = []
    masks: dict[int, Labels] = {}
    for place, index in enumerate(call["indices"]):
        if not isinstance(index, Labels):
            d += 1
            continue
        covered = index.ndim if _boolean(call, place) else 1
        gaps += bool(dims) and dims[-1] != d - 1
        if _boolean(call, place):
            masks[d] = index
        dims += range(d, d + covered)
        tensors.append(index)
        d += covered
    left = tuple(k for k in range(x.ndim) if k not in dims)
    widths = [1 if t in masks.values() else t.ndim for t in tensors]
    start = 0 if gaps or not dims else sum(k < dims[0] for k in left)
    return Picks(tuple(dims), left, max(widths, default=0), start, tuple(tensors), masks)


@operator("aten.index", rewrite=_rewrite_pointer, numbers=True)
def _index(call: Call) -> Any:
    """x[i, :, j]: entries that tensors pick stay; the other dimensions keep their labels."""
    found = pointer(call.node)
    if found is not None:
        call.point(CHOSEN)
        return _pointed(call, found)
    x, picks = call["self"], picks_of(call)
    if not picks.masks and len(picks.tensors) == 1 and picked(call, x, picks.dims[0], picks.tensors[0]):
        pass
    elif isinstance(source := call.nodes["self"], Node) and source.op == "get_attr":  # a table, as a vocabulary is
        call.c.pin(*(v for d in picks.dims for v in x.at(d)), reason=ROWS)
        _unpoint(call, picks.tensors)
    else:
        hold_numbers(call, x, picks.dims, BY_VALUE if picks.masks else BY_NUMBER)
        _unpoint(call, picks.tensors)
    for tensor in picks.tensors:
        call.c.pin_all(tensor)
    dims = {place: x.at(d) for d, place in picks.places().items()}
    return Labels(call.shape).with_dims(dims).pointing(x.points)


def _unpoint(call: Call, picks: Sequence[Labels]) -> None:
    """Pins what the numbers point at that pick from some other dimension."""
    for pick in picks:
        if pick.points is not None:
            call.hold(ELSEWHERE,
                      [Labels(pick.points.shape, {0: (pick.points,)})])  # fmt: skip


def _boolean(call: Call, place: int) -> bool:
    value = call.nodes["indices"][place].meta.get("val")
    return value is not None and value.dtype in (torch.bool, torch.uint8)


@operator("aten.gather", numbers=True)
def _gather(call: Call) -> Any:
    """y[…, j, …] = x[…, index[…, j, …], …]: picks along one dimension, entry by entry on the others.

    The index may be smaller than what it picks from; then it is about the first entries.
    """
    x, index = call["self"], call["index"]
    dim = call["dim"] % x.ndim if x.ndim else 0
    if not picked(call, x, dim, index):
        hold_numbers(call, x, [dim])
        call.point(ELSEWHERE)
    for d in range(x.ndim):
        if d != dim:
            entries = tuple(v[: index.shape[d] or None] for v in x.at(d))
            if entries and not index.at(d):
                hold_numbers(call, Labels((len(entries[0]),), {0: entries}), [0])
            else:
                call.c.tie(entries, index.at(d))
    return Labels(index.shape, index.dims).pointing(x.points)


@operator("aten.take_along_dim")
def _take_along(call: Call) -> Any:
    """:func:`_gather` with dimensions of size 1 that are repeated; without a dimension it picks from all entries."""
    x, index = call["self"], call["indices"]
    if call.get("dim") is None:
        return call.pin(BY_NUMBER)
    dim = call["dim"] % x.ndim
    hold_numbers(call, x, [dim])
    left = [without(t, dim) for t in (x, index)]
    shape = tuple(n for d, n in enumerate(call.shape) if d != dim)
    joined = {d + (d >= dim): v for d, v in join(call.c, left, shape).dims.items()}
    return Labels(call.shape).with_dims({**joined, dim: index.at(dim)})


@operator("aten.take", "aten.put")
def _take(call: Call) -> Any:
    """All entries as one row."""
    return call.pin(BY_NUMBER)


@operator("aten.masked_select", "aten.nonzero", "aten.nonzero_numpy", "aten.argwhere", "aten.unique_dim",
          "aten._unique2", "aten.unique_consecutive")  # fmt: skip
def _counted(call: Call) -> Any:
    return call.pin(BY_VALUE)
