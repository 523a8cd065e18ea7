"""Concatenation and pieces: cat, stack, split, select, slice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call
from secateur.graph.labels import Constraints, Labels, Vector
from secateur.graph.mixtures import are_in_lists
from secateur.graph.ops.elementwise import join
from secateur.graph.reasons import ONE_BY_ONE
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

__all__ = ["cut_in_pieces", "joined_along", "without"]


@operator("aten.cat", "aten.concat", "aten.concatenate")
def _cat(call: Call) -> Labels:
    parts = [t for t in call["tensors"] if t.shape != (0,)]
    return joined_along(call, parts, call.get("dim", call.get("axis", 0)) % len(call.shape))


def joined_along(call: Call, parts: Sequence[Labels], dim: int) -> Labels:
    """Labels of tensors one after the other along ``dim``; on the others they lose the same entries."""
    shape = call.shape
    others = [Labels(p.shape).with_dims({d: v for d, v in p.dims.items() if d != dim}) for p in parts]
    dims = {d: _tied(call.c, others, d) for d in range(len(shape)) if d != dim}
    pieces = [call.c.single(p.at(dim)) if p.at(dim) else np.zeros(p.shape[dim], np.int64) for p in parts]
    if any(p.dims.get(dim) for p in parts):
        dims[dim] = (np.concatenate(pieces),)
    return Labels(shape).with_dims(dims)


def _tied(c: Constraints, parts: Sequence[Labels], dim: int) -> tuple[Vector, ...]:
    for other in parts[1:]:
        c.tie(parts[0].at(dim), other.at(dim))
    return parts[0].at(dim)


@operator("aten.stack")
def _stack(call: Call) -> Labels:
    """The new dimension carries no labels."""
    parts, shape = call["tensors"], call.shape
    dim = call["dim"] % len(shape)
    joined = join(call.c, parts, parts[0].shape)
    return Labels(shape).with_dims({d + (d >= dim): v for d, v in joined.dims.items()})


def _pieces(x: Labels, dim: int, sizes: Sequence[int]) -> list[Labels]:
    ends = np.cumsum(sizes)
    return [_sliced(x, dim, slice(int(e - n), int(e))) for n, e in zip(sizes, ends, strict=True)]


def _sliced(x: Labels, dim: int, part: slice) -> Labels:
    shape = list(x.shape)
    shape[dim] = len(range(*part.indices(shape[dim])))
    dims = {d: tuple(v[part] for v in vs) if d == dim else vs for d, vs in x.dims.items()}
    return Labels(tuple(shape)).with_dims(dims)


def _rewrite_split(r: Rewriter) -> None:
    """Every form becomes the one with explicit sizes: equal pieces need not stay equal."""
    import torch

    source = r.node_of("self")
    dim = r["dim"] % len(r.labels(source).shape)
    if r.changes(source, dim):
        r.node.target = torch.ops.aten.split_with_sizes.default
        r.node.args, r.node.kwargs = (source, [r.kept(p, dim) for p in r.labels(r.node)], dim), {}


@operator("aten.split", "aten.chunk", "aten.split_with_sizes", "aten.tensor_split", "aten.unsafe_split",
          "aten.unsafe_chunk", "aten.unsafe_split_with_sizes", rewrite=_rewrite_split,
          facts=Facts(kind=Kind.PIECE))  # fmt: skip
def _split(call: Call) -> list[Labels]:
    x = call["self"]
    return cut_in_pieces(call, x, call["dim"] % x.ndim)


def cut_in_pieces(call: Call, x: Labels, dim: int) -> list[Labels]:
    """Labels of the pieces that the operator gives, cut along ``dim``."""
    sizes = [_hinted(v.shape[dim]) for v in call.node.meta["val"]]
    found = _pieces(x, dim, sizes)
    if x.at(dim) and len(set(sizes)) == 1:
        first, *others = (call.c.single(piece.at(dim)) for piece in found)
        for other in others:
            call.c.alike(first, other)
    return found


def _hinted(size: Any) -> int:
    return int(size) if isinstance(size, int) else int(size.node.hint)


@operator("aten.unbind", facts=Facts(kind=Kind.PIECE))
def _unbind(call: Call) -> list[Labels]:
    """Each piece is one entry: the dimension cannot lose any."""
    x = call["self"]
    dim = call["dim"] % x.ndim
    call.c.pin(*x.at(dim), reason=ONE_BY_ONE)
    return [without(x, dim)] * x.shape[dim]


def without(x: Labels, dim: int) -> Labels:
    """The labels of a tensor that lost a dimension."""
    shape = tuple(n for d, n in enumerate(x.shape) if d != dim)
    return Labels(shape).with_dims({d - (d > dim): v for d, v in x.dims.items() if d != dim})


def _rewrite_select(r: Rewriter) -> None:
    source = r.node_of("self")
    shape = r.labels(source).shape
    dim, index = r["dim"] % len(shape), r["index"]
    if r.changes(source, dim):
        r.set("index", r.before(source, dim, index % shape[dim]))


@operator("aten.select", rewrite=_rewrite_select, facts=Facts(kind=Kind.PIECE))
def _select(call: Call) -> Labels:
    x = call["self"]
    dim = call["dim"] % x.ndim
    if isinstance(call.nodes["index"], int) and are_in_lists():
        return without(x, dim)  # a row of a table of choices: that one expert's
    if isinstance(call.nodes["index"], int):
        call.c.pin(*(v[[call["index"]]] for v in x.at(dim)), reason=ONE_BY_ONE)
    else:
        call.c.pin(*x.at(dim), reason=ONE_BY_ONE)
    return without(x, dim)


def _rewrite_slice(r: Rewriter) -> None:
    """A strided slice of a cut dimension becomes the slices that hold what is left of it, one after the other.

    Slices rather than an index: a graph that is traced, saved or cut again knows how labels flow through them.
    """
    import torch

    source = r.node_of("self")
    size = r.labels(source).shape[r["dim"]]
    dim = r["dim"] % len(r.labels(source).shape)
    if not r.changes(source, dim):
        return
    start, stop, step = slice(r.get("start"), r.get("end"), r.get("step", 1)).indices(size)
    if step == 1:
        r.set("start", r.before(source, dim, start))
        r.set("end", r.before(source, dim, stop))
        return
    mask = r.mask(source, dim)
    runs = _runs([r.before(source, dim, i) for i in range(start, stop, step) if mask[i]])
    slices = [(source, dim, run.start, run.stop, run.step) for run in runs] or [(source, dim, 0, 0, 1)]
    if len(slices) == 1:
        r.node.args, r.node.kwargs = slices[0], {}
        return
    with r.node.graph.inserting_before(r.node):
        parts = [r.node.graph.call_function(torch.ops.aten.slice.Tensor, part) for part in slices]
    r.node.target, r.node.args, r.node.kwargs = torch.ops.aten.cat.default, (parts, dim), {}


def _runs(places: Sequence[int]) -> list[range]:
    """Ascending places as ranges with steps, each as long as it can be.

    >>> _runs([0, 2, 4, 5, 6, 9])
    [range(0, 5, 2), range(5, 7), range(9, 10)]
    """
    runs: list[range] = []
    for place in places:
        last = runs[-1] if runs else range(0)
        if len(last) == 1:
            runs[-1] = range(last[0], place + 1, place - last[0])
        elif last and place == last[-1] + last.step:
            runs[-1] = range(last.start, place + 1, last.step)
        else:
            runs.append(range(place, place + 1))
    return runs


@operator("aten.slice", rewrite=_rewrite_slice, facts=Facts(kind=Kind.PIECE))
def _slice(call: Call) -> Labels:
    x = call["self"]
    dim = call["dim"] % x.ndim
    if not all(isinstance(call.nodes.get(n), (int, type(None))) for n in ("start", "end", "step")):
        call.c.pin(*x.at(dim))
        return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})
    return _sliced(x, dim, slice(call.get("start"), call.get("end"), call.get("step", 1)))


def _rewrite_narrow(r: Rewriter) -> None:
    source = r.node_of("self")
    dim = r["dim"] % len(r.labels(source).shape)
    if r.changes(source, dim):
        r.set("start", r.before(source, dim, r["start"]))
        r.set("length", r.new_size(r.node, dim))


@operator("aten.narrow", "aten.narrow_copy", rewrite=_rewrite_narrow, facts=Facts(kind=Kind.PIECE))
def _narrow(call: Call) -> Labels:
    x, dim = call["self"], call["dim"] % call["self"].ndim
    start = call["start"]
    if not all(isinstance(call.nodes[n], int) for n in ("start", "length")):  # sizes of the batch
        call.c.pin(*x.at(dim))
        return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})
    return _sliced(x, dim, slice(start, start + call["length"]))
