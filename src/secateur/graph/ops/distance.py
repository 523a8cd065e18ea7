"""Distances and similarities of rows, and products of vectors: sums over one dimension, as contractions are."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from secateur.graph.facts import Facts, Kind
from secateur.graph.flow import Call
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.ops.pieces import without
from secateur.graph.rules import operator

if TYPE_CHECKING:
    from secateur.graph.masked import Masked

__all__: list[str] = []


def _leading(x: Labels, count: int) -> Labels:
    """The labels of a tensor without its last ``count`` dimensions."""
    size = x.ndim - count
    return Labels(x.shape[:size]).with_dims({d: v for d, v in x.dims.items() if d < size})


@operator("aten.cdist")
def _cdist(call: Call) -> Labels:
    """(…, P, M), (…, R, M) → (…, P, R): coordinates that are zero on both sides count nothing, whatever the norm."""
    a, b = call["x1"], call["x2"]
    call.c.tie(a.at(-1), b.at(-1))
    call.flow.consume(b, -1)
    shape = call.shape
    rows = join(call.c, [_leading(a, 2), _leading(b, 2)], shape[:-2])
    return Labels(shape).with_dims({**rows.dims, len(shape) - 2: a.at(-2), len(shape) - 1: b.at(-2)})


@operator("aten.cosine_similarity")
def _cosine(call: Call) -> Labels:
    """Σ a·b / (‖a‖ ‖b‖) along one dimension: removed entries are zero and count nothing."""
    a, b = call["x1"], call["x2"]
    shape = tuple(np.broadcast_shapes(a.shape, b.shape))
    return without(join(call.c, [a, b], shape), call["dim"] % len(shape))


def _pairwise_on_kept(m: Masked) -> Tensor:
    """A small number is added to every kept difference, so that those alone count."""
    mask = {m["x1"].ndim - 1: m.mask("x1", -1)}
    other = {m["x2"].ndim - 1: m.mask("x1", -1)}
    return m.call(x1=m.gather(m["x1"], mask), x2=m.gather(m["x2"], other))


@operator("aten.pairwise_distance", reference=_pairwise_on_kept)
def _pairwise(call: Call) -> Labels:
    """‖a − b + ε‖ along the last dimension."""
    a, b = call["x1"], call["x2"]
    shape = tuple(np.broadcast_shapes(a.shape, b.shape))
    joined = join(call.c, [a, b], shape)
    left = {d: v for d, v in joined.dims.items() if d != len(shape) - 1}
    return Labels(call.shape).with_dims(left)


@operator("aten.dist")
def _dist(call: Call) -> Labels:
    """One number of two tensors: what is removed on both sides counts nothing."""
    a, b = call["self"], call["other"]
    join(call.c, [a, b], np.broadcast_shapes(a.shape, b.shape))
    return Labels(call.shape)


@operator("aten.pdist")
def _pdist(call: Call) -> Labels:
    """(P, M) → P(P−1)/2 distances: coordinates pass, rows stay."""
    x = call["self"]
    call.hold("every pair of rows gives an entry", [x.with_dims({0: x.at(0)})])
    return Labels(call.shape)


@operator("aten.renorm")
def _renorm(call: Call) -> Labels:
    """Slices along one dimension are made shorter: removed entries are zero and count nothing."""
    return call["self"]  # type: ignore[no-any-return]


@operator("aten.embedding_renorm")
def _embedding_renorm(call: Call) -> Labels:
    """Rows of a table (V, C) are made shorter before they are picked: the rows stay, the width passes."""
    weight: Labels = call["self"]
    call.c.pin(*weight.at(0))
    return weight


# ------------------------------------------------------------------------------------------- products of vectors


@operator("aten.outer", "aten.ger", facts=Facts(kind=Kind.MATMUL))
def _outer(call: Call) -> Labels:
    """(n), (m) → (n, m)."""
    return Labels(call.shape).with_dims({0: call["self"].at(0), 1: call["vec2"].at(0)})


@operator("aten.inner", facts=Facts(kind=Kind.MATMUL))
def _inner(call: Call) -> Labels:
    """(…, k), (…, k) → all rows of the one with all rows of the other."""
    a, b = call["self"], call["other"]
    if not a.ndim or not b.ndim:
        return join(call.c, [a, b], call.shape)
    call.c.tie(a.at(-1), b.at(-1))
    call.flow.consume(b, -1)
    second = {d + a.ndim - 1: v for d, v in _leading(b, 1).dims.items()}
    return Labels(call.shape).with_dims({**_leading(a, 1).dims, **second})


@operator("aten.linalg_vecdot", facts=Facts(kind=Kind.MATMUL))
def _vecdot(call: Call) -> Labels:
    """Σ x·y along one dimension."""
    a, b = call["x"], call["y"]
    shape = tuple(np.broadcast_shapes(a.shape, b.shape))
    return without(join(call.c, [a, b], shape), call["dim"] % len(shape))


@operator("aten.tensordot", facts=Facts(kind=Kind.MATMUL))
def _tensordot(call: Call) -> Labels:
    """Pairs of dimensions are contracted; what is left of the one comes before what is left of the other."""
    a, b = call["self"], call["other"]
    one, two = [d % a.ndim for d in call["dims_self"]], [d % b.ndim for d in call["dims_other"]]
    for d, e in zip(one, two, strict=True):
        if a.shape[d] == b.shape[e]:
            call.c.tie(a.at(d), b.at(e))
        else:
            call.c.pin(*a.at(d), *b.at(e))
        call.flow.consume(b, e)
    left = [(a, d) for d in range(a.ndim) if d not in one] + [(b, d) for d in range(b.ndim) if d not in two]
    return Labels(call.shape).with_dims({place: t.at(d) for place, (t, d) in enumerate(left)})


@operator("aten.addmv", "aten.addr", "aten.addbmm", facts=Facts(kind=Kind.MATMUL))
def _added_product(call: Call) -> Labels:
    """A product with something added: matrix and vector, two vectors, or the sum of products of matrices."""
    c, (extra, a, b) = call.c, call.tensors
    if a.ndim == 1:
        out = {0: a.at(0), 1: b.at(0)}
    else:
        c.tie(a.at(-1), b.at(-2) if b.ndim > 1 else b.at(0))
        call.flow.consume(b, -2 if b.ndim > 1 else 0)
        if a.ndim == 3:
            c.tie(a.at(0), b.at(0))
        out = {0: a.at(-2)} | ({1: b.at(-1)} if b.ndim > 1 else {})
    return join(c, [Labels(call.shape).with_dims(out), extra], call.shape)


@operator("aten.linalg_multi_dot", "aten.chain_matmul", facts=Facts(kind=Kind.MATMUL))
def _chain(call: Call) -> Labels:
    """A₁·A₂·…·Aₙ of matrices; the first and the last may be vectors."""
    parts = call.tensors
    for a, b in pairwise(parts):
        call.c.tie(a.at(-1), b.at(0))
        call.flow.consume(b, 0)
    ends = [v for t, d in ((parts[0], 0), (parts[-1], 1)) if t.ndim > 1 for v in [t.at(d)]]
    return Labels(call.shape).with_dims(dict(enumerate(ends)))


@operator("aten.kron")
def _kron(call: Call) -> Labels:
    """Every entry of the one times the whole other: an entry goes when either of its factors goes."""
    a, b, shape = call["self"], call["other"], call.shape
    dims: dict[int, tuple[Vector, ...]] = {}
    for d in range(len(shape)):
        own, other = d - (len(shape) - a.ndim), d - (len(shape) - b.ndim)
        first = a.at(own) if own >= 0 else ()
        second = b.at(other) if other >= 0 else ()
        sizes = a.shape[own] if own >= 0 else 1, b.shape[other] if other >= 0 else 1
        dims[d] = (*(np.repeat(v, sizes[1]) for v in first), *(np.tile(v, sizes[0]) for v in second))
    return Labels(shape).with_dims(dims)
