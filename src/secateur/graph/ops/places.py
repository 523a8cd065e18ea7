"""What depends on where entries stand: diagonals, turns, differences, stacks of several tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from secateur.graph.flow import Call
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.ops.pieces import cut_in_pieces, joined_along
from secateur.graph.ops.reshape import reshape
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

__all__: list[str] = []


def _stays(call: Call, x: Labels, dims: Sequence[int], reason: str) -> dict[int, tuple[Vector, ...]]:
    """Pins dimensions and says why; gives the labels of the others."""
    held = {d % x.ndim for d in dims}
    call.hold(reason, [x.with_dims({d: x.at(d) for d in held})])
    return {d: v for d, v in x.dims.items() if d not in held}


# ---------------------------------------------------------------------------------------------------- diagonals


@operator("aten.diagonal", "aten.linalg_diagonal", "aten.trace")
def _diagonal(call: Call) -> Labels:
    """The main diagonal: row and column of a number go together. Of another one they stay."""
    x: Labels = call["self"] if "self" in call.values else call["A"]
    linalg = "linalg" in str(call.node.target)
    one, two = (call.get("dim1", -2 if linalg else 0) % x.ndim, call.get("dim2", -1 if linalg else 1) % x.ndim)
    rest = {d: v for d, v in x.dims.items() if d not in (one, two)}
    places = {d: d - (d > one) - (d > two) for d in rest}
    main = {}
    if call.get("offset", 0) or x.shape[one] != x.shape[two]:
        _stays(call, x, (one, two), "which entries lie on the diagonal depends on where they stand")
    else:
        call.c.tie(x.at(one), x.at(two))
        main = {len(call.shape) - 1: x.at(one)} if "trace" not in str(call.node.target) else {}
    return Labels(call.shape).with_dims({**{places[d]: v for d, v in rest.items()}, **main})


@operator("aten.diag_embed")
def _diag_embed(call: Call) -> Labels:
    """(…, n) → (…, n, n) with the entries on the main diagonal: an entry goes with its row and its column."""
    x, shape = call["self"], call.shape
    one, two = call.get("dim1", -2) % len(shape), call.get("dim2", -1) % len(shape)
    rest = iter(d for d in range(len(shape)) if d not in (one, two))
    dims = {place: x.at(d) for d, place in zip(range(x.ndim - 1), rest, strict=True)}
    if call.get("offset", 0):
        _stays(call, x, [-1], "entries are moved off the diagonal by their position")
        return Labels(shape).with_dims(dims)
    return Labels(shape).with_dims({**dims, one: x.at(-1), two: x.at(-1)})


@operator("aten.diag")
def _diag(call: Call) -> Labels:
    """Of a vector the matrix with it on its diagonal, of a matrix its diagonal."""
    x: Labels = call["self"]
    found: Labels = _diag_embed(call) if x.ndim == 1 else _diagonal(call)
    return found


@operator("aten.block_diag")
def _block_diag(call: Call) -> Labels:
    """Matrices one after the other along the diagonal, with zeros around them."""
    parts = [t if t.ndim == 2 else reshape(call.c, t, (1,) * (2 - t.ndim) + t.shape) for t in call["tensors"]]

    def along(d: int) -> tuple[Vector, ...]:
        pieces = [call.c.single(t.at(d)) if t.at(d) else np.zeros(t.shape[d], np.int64) for t in parts]
        return (np.concatenate(pieces),) if any(t.at(d) for t in parts) else ()

    return Labels(call.shape).with_dims({d: along(d) for d in (0, 1)})


# ------------------------------------------------------------------------------------------ turns and differences


@operator("aten.rot90")
def _rot90(call: Call) -> Labels:
    """Two dimensions are turned, which stay; the others pass."""
    return Labels(call.shape).with_dims(_stays(call, call["self"], call["dims"], "two dimensions are turned"))


_NEIGHBOURS = "neighbouring entries of this dimension are mixed"


@operator("aten.diff")
def _diff(call: Call) -> Labels:
    """Differences of neighbours along one dimension, perhaps with something put before or behind."""
    x, dim = call["self"], call["dim"] % call["self"].ndim
    for name in ("prepend", "append"):
        if isinstance(other := call.get(name), Labels):
            _stays(call, other, [dim], _NEIGHBOURS)
            for d in range(x.ndim):
                if d != dim:
                    call.c.tie(x.at(d), other.at(d))
    return Labels(call.shape).with_dims(_stays(call, x, [dim], _NEIGHBOURS))


@operator("aten.trapezoid", "aten.trapz", "aten.cumulative_trapezoid")
def _trapezoid(call: Call) -> Labels:
    """Sums of neighbours along one dimension, which goes or stays as it is."""
    y = call["y"]
    if isinstance(call.get("x"), Labels):
        call.c.pin_all(call["x"])
    dim = call["dim"] % y.ndim
    kept, gone = _stays(call, y, [dim], _NEIGHBOURS), len(call.shape) < y.ndim
    return Labels(call.shape).with_dims({d - (gone and d > dim): v for d, v in kept.items()})


@operator("aten.cross", "aten.linalg_cross")
def _cross(call: Call) -> Labels:
    """Products of vectors with three entries each, which stay."""
    joined = join(call.c, [call["self"], call["other"]], call.shape)
    dim = call.get("dim")
    dims = [dim] if dim is not None else list(range(joined.ndim))
    return Labels(call.shape).with_dims(_stays(call, joined, dims, "a vector of three entries"))


@operator("aten.segment_reduce")
def _segment_reduce(call: Call) -> Labels:
    """Runs of entries along one dimension are summed up, which stays; the others pass."""
    x: Labels = call["data"]
    for name in ("lengths", "offsets", "indices"):
        if isinstance(call.get(name), Labels):
            call.c.pin_all(call[name])
    reason = "which entries are summed up depends on where they stand"
    return Labels(call.shape).with_dims(_stays(call, x, [call.get("axis", 0)], reason))


@operator("aten.affine_grid_generator")
def _affine_grid(call: Call) -> Labels:
    """(N, 2, 3) → places (N, H, W, 2): the samples pass."""
    theta: Labels = call["theta"]
    kept = _stays(call, theta, range(1, theta.ndim), "each of these numbers has a meaning of its own")
    return Labels(call.shape).with_dims(kept)


# -------------------------------------------------------------------------------------- several tensors, or pieces


@operator("aten.hstack", "aten.vstack", "aten.row_stack", "aten.dstack", "aten.column_stack")
def _stacks(call: Call) -> Labels:
    """Concatenation along the second, first or third dimension, with dimensions of size 1 where there are too few."""
    name, shape = call.node.target._opname, call.shape  # type: ignore[union-attr]
    parts = [reshape(call.c, t, _at_least(name, t.shape)) for t in call["tensors"]]
    dim = {"vstack": 0, "row_stack": 0, "dstack": 2}.get(name, min(1, len(shape) - 1))
    return joined_along(call, parts, dim)


def _at_least(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape with as many dimensions as a stack needs."""
    if name == "column_stack":
        return shape if len(shape) > 1 else (*(shape or (1,)), 1)
    if len(shape) == 0:
        shape = (1,)
    if name == "hstack" or len(shape) > 2 or (name != "dstack" and len(shape) == 2):
        return shape
    flat = shape if len(shape) == 2 else (1, *shape)
    return (*flat, 1) if name == "dstack" else flat


_ALONG = {"hsplit": 1, "vsplit": 0, "dsplit": 2}


def _along(name: str, ndim: int) -> int:
    return min(_ALONG[name], ndim - 1)


def _rewrite_pieces(r: Rewriter) -> None:
    import torch

    source = r.node_of("self")
    dim = _along(r.dense.target._opname, len(r.labels(source).shape))  # type: ignore[union-attr]
    if r.changes(source, dim):
        r.node.target = torch.ops.aten.split_with_sizes.default
        r.node.args, r.node.kwargs = (source, [r.kept(p, dim) for p in r.labels(r.node)], dim), {}


@operator("aten.hsplit", "aten.vsplit", "aten.dsplit", rewrite=_rewrite_pieces)
def _splits(call: Call) -> Any:
    """Pieces along the second, first or third dimension."""
    x: Labels = call["self"]
    return cut_in_pieces(call, x, _along(call.node.target._opname, x.ndim))  # type: ignore[union-attr]
