"""Data movement: what an operator does to the numbers, it does to their labels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from secateur.graph.flow import Call
from secateur.graph.labels import Constraints, Labels, Vector
from secateur.ops import operator
from secateur.ops.elementwise import join

if TYPE_CHECKING:
    from secateur.surgery.graph import Rewriter

__all__ = ["reshape", "without"]

# -------------------------------------------------------------------------------------------------- reshape


def reshape(c: Constraints, x: Labels, shape: Sequence[int]) -> Labels:
    """Reshapes labels; a labelled dimension that is split into blocks becomes a product of its axes.

    Input and output shapes are cut into the smallest runs of dimensions with equal products; labels move
    within a run. Flattening C × H × W repeats each channel's label H·W times.
    """
    dims: dict[int, tuple[Vector, ...]] = {}
    for source, target in _segments(x.shape, shape):
        if not target:
            for d in source:
                c.pin(*x.at(d))
            continue
        for d in source:
            for vector in x.at(d):
                array = _spread(vector, [x.shape[s] for s in source], source.index(d))
                for axis, own in c.split(array.reshape([shape[t] for t in target])).items():
                    dims[target[axis]] = (*dims.get(target[axis], ()), own)
    return Labels(tuple(shape)).with_dims(dims)


def _spread(vector: Vector, shape: list[int], axis: int) -> NDArray[np.int64]:
    """Repeats a dimension's labels over the other dimensions of its run."""
    view = vector.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(view, shape)


def _segments(a: Sequence[int], b: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """Pairs runs of dimensions of equal product; dimensions of size 1 stay apart where they can.

    >>> _segments((2, 6, 4), (2, 3, 2, 4))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    >>> _segments((2, 8, 1, 1), (2, 8))
    [([0], [0]), ([1], [1]), ([2, 3], [])]
    """
    runs: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) and j < len(b):
        left, right = [i], [j]
        i, j = i + 1, j + 1
        while prod(a[k] for k in left) != prod(b[k] for k in right):
            if prod(a[k] for k in left) < prod(b[k] for k in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        runs.append((left, right))
    rest = (list(range(i, len(a))), list(range(j, len(b))))
    return [*runs, rest] if rest[0] or rest[1] else runs


def _rewrite_sizes(name: str) -> Any:
    def rewrite(r: Rewriter) -> None:
        r.set(name, r.sizes(r[name]))

    return rewrite


@operator("aten.view", "aten._unsafe_view", rewrite=_rewrite_sizes("size"))
@operator("aten.reshape", rewrite=_rewrite_sizes("shape"))
@operator("aten.flatten", "aten.squeeze", "aten.unsqueeze", "aten.ravel")
@operator("aten.view_as", "aten.reshape_as")
def _reshape(call: Call) -> Labels | Any:
    if not isinstance(call["self"], Labels):
        return call.pin("a view as another type")
    return reshape(call.c, call["self"], call.shape)


def _rewrite_unflatten(r: Rewriter) -> None:
    dim, count = r["dim"] % len(r.labels(r.node_of("self")).shape), len(r["sizes"])
    r.set("sizes", r.sizes(r["sizes"], offset=dim, count=count))


@operator("aten.unflatten", rewrite=_rewrite_unflatten)
def _unflatten(call: Call) -> Labels:
    return reshape(call.c, call["self"], call.shape)


# ------------------------------------------------------------------------------------- permute, expand, repeat


def _permuted(x: Labels, order: Sequence[int], shape: tuple[int, ...]) -> Labels:
    return Labels(shape).with_dims({d: x.at(s) for d, s in enumerate(order)})


@operator("aten.permute")
def _permute(call: Call) -> Labels:
    return _permuted(call["self"], call["dims"], call.shape)


@operator("aten.transpose", "aten.swapaxes", "aten.swapdims", "aten.t", "aten.numpy_T", "aten.mT", "aten.adjoint")
def _transpose(call: Call) -> Labels:
    x = call["self"]
    order = list(range(x.ndim))
    pair = [call.get(n) for n in ("dim0", "axis0")], [call.get(n) for n in ("dim1", "axis1")]
    a, b = (next((v for v in p if v is not None), None) for p in pair)
    if a is None or b is None:
        a, b = (-2, -1) if x.ndim > 1 else (0, 0)
    order[a % x.ndim], order[b % x.ndim] = order[b % x.ndim], order[a % x.ndim]
    return _permuted(x, order, call.shape)


@operator("aten.movedim", "aten.moveaxis")
def _movedim(call: Call) -> Labels:
    x = call["self"]
    source, target = call.dims("source"), call.dims("destination")
    order = [-1] * x.ndim
    for s, t in zip(source, target, strict=True):
        order[t] = s
    rest = iter(d for d in range(x.ndim) if d not in source)
    return _permuted(x, [next(rest) if s < 0 else s for s in order], call.shape)


@operator("aten.expand", "aten.broadcast_to", rewrite=_rewrite_sizes("size"))
@operator("aten.expand_as")
def _expand(call: Call) -> Labels:
    """A dimension that grows from 1 must keep its only entry."""
    x = call["self"]
    return join(call.c, [x], call.shape)


@operator("aten.repeat")
def _repeat(call: Call) -> Labels:
    x, shape = call["self"], call.shape
    dims: dict[int, tuple[Vector, ...]] = {}
    for d, size in enumerate(shape):
        own = d - (len(shape) - x.ndim)
        if own >= 0:
            dims[d] = tuple(np.tile(v, size // len(v)) for v in x.at(own))
    return Labels(shape).with_dims(dims)


@operator("aten.repeat_interleave")
def _repeat_interleave(call: Call) -> Any:
    x, dim, times = call["self"], call.get("dim"), call.get("repeats")
    if dim is None or not isinstance(times, int) or call.get("output_size") is not None:
        return call.pin("repeat_interleave with a tensor of counts, or over all entries")
    dims = {d: tuple(np.repeat(v, times) for v in x.at(d)) if d == dim % x.ndim else x.at(d) for d in range(x.ndim)}
    return Labels(call.shape).with_dims(dims)


@operator("aten.flip")
def _flip(call: Call) -> Labels:
    x: Labels = call["self"]
    flipped = call.dims("dims")
    return x.with_dims({d: tuple(v[::-1] for v in x.at(d)) if d in flipped else x.at(d) for d in range(x.ndim)})


@operator("aten.roll")
def _roll(call: Call) -> Labels:
    """A rolled dimension keeps all its entries (the shift counts dense positions)."""
    x: Labels = call["self"]
    for d in call.dims("dims"):
        call.c.pin(*x.at(d))
    return x


# ---------------------------------------------------------------------------------------------- cat and split


@operator("aten.cat", "aten.concat", "aten.concatenate")
def _cat(call: Call) -> Labels:
    parts, shape = [t for t in call["tensors"] if t.shape != (0,)], call.shape
    dim = call.get("dim", call.get("axis", 0)) % len(shape)
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


@operator("aten.split", "aten.chunk", "aten.split_with_sizes", "aten.tensor_split", rewrite=_rewrite_split)
def _split(call: Call) -> list[Labels]:
    x = call["self"]
    dim = call["dim"] % x.ndim
    sizes = [_hinted(v.shape[dim]) for v in call.node.meta["val"]]
    return _pieces(x, dim, sizes)


def _hinted(size: Any) -> int:
    return int(size) if isinstance(size, int) else int(size.node.hint)


@operator("aten.unbind")
def _unbind(call: Call) -> list[Labels]:
    """Each piece is one entry: the dimension cannot lose any."""
    x = call["self"]
    dim = call["dim"] % x.ndim
    call.c.pin(*x.at(dim))
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


@operator("aten.select", rewrite=_rewrite_select)
def _select(call: Call) -> Labels:
    x = call["self"]
    dim = call["dim"] % x.ndim
    if isinstance(call["index"], int):
        call.c.pin(*(v[[call["index"]]] for v in x.at(dim)))
    else:
        call.c.pin(*x.at(dim))
    return without(x, dim)


def _rewrite_slice(r: Rewriter) -> None:
    """A strided or ragged slice of a cut dimension becomes a selection of the entries that are left."""
    source = r.node_of("self")
    size = r.labels(source).shape[r["dim"]]
    dim = r["dim"] % len(r.labels(source).shape)
    if not r.changes(source, dim):
        return
    start, stop, step = slice(r.get("start"), r.get("end"), r.get("step", 1)).indices(size)
    if step == 1:
        r.set("start", r.before(source, dim, start))
        r.set("end", r.before(source, dim, stop))
    else:
        r.select(source, dim, list(range(start, stop, step)))


@operator("aten.slice", rewrite=_rewrite_slice)
def _slice(call: Call) -> Labels:
    x = call["self"]
    dim = call["dim"] % x.ndim
    if not all(isinstance(call.get(n), (int, type(None))) for n in ("start", "end", "step")):
        call.c.pin(*x.at(dim))
        return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})
    return _sliced(x, dim, slice(call.get("start"), call.get("end"), call.get("step", 1)))


def _rewrite_narrow(r: Rewriter) -> None:
    source = r.node_of("self")
    dim = r["dim"] % len(r.labels(source).shape)
    if r.changes(source, dim):
        r.set("start", r.before(source, dim, r["start"]))
        r.set("length", r.new_size(r.node, dim))


@operator("aten.narrow", rewrite=_rewrite_narrow)
def _narrow(call: Call) -> Labels:
    x, start = call["self"], call["start"]
    return _sliced(x, call["dim"] % x.ndim, slice(start, start + call["length"]))


# -------------------------------------------------------------------------------------------- pad and shuffle


def _rewrite_pad(r: Rewriter) -> None:
    """Amounts on a labelled dimension become the padded entries that are left."""
    source = r.node_of("self")
    shape, amounts = r.labels(source).shape, list(r["pad"])
    for k in range(0, len(amounts), 2):
        dim = len(shape) - 1 - k // 2
        if r.changes(r.node, dim) and isinstance(amounts[k], int):
            before, after = amounts[k], amounts[k + 1]
            total = r.labels(r.node).shape[dim]
            amounts[k] = r.before(r.node, dim, before)
            amounts[k + 1] = r.new_size(r.node, dim) - r.before(r.node, dim, total - after)
    r.set("pad", amounts)


@operator("aten.pad", "aten.constant_pad_nd", rewrite=_rewrite_pad)
def _pad(call: Call) -> Labels:
    """Constant padding adds fresh labels that belong to no parameter; other modes and cropping pin."""
    x, amounts, c = call["self"], call["pad"], call.c
    constant = call.get("mode", "constant") == "constant"
    dims = dict(x.dims)
    for k in range(0, len(amounts), 2):
        dim, (before, after) = x.ndim - 1 - k // 2, amounts[k : k + 2]
        vectors = dims.pop(dim, ())
        if before == after == 0:
            dims[dim] = vectors
        elif constant and vectors and isinstance(before, int) and isinstance(after, int) and min(before, after) >= 0:
            dims[dim] = (np.concatenate([c.fresh(before), c.single(vectors), c.fresh(after)]),)
        else:
            c.pin(*vectors)
    return Labels(call.shape).with_dims(dims)


def _rearranged_channels(call: Call, source: Vector, blocks: int) -> Vector:
    """Channels whose blocks of ``blocks`` entries go together: one fresh label a block."""
    block = call.c.fresh(len(source) // blocks)
    call.c.unite(source, np.repeat(block, blocks))
    return block


@operator("aten.pixel_shuffle")
def _pixel_shuffle(call: Call) -> Labels:
    """(…, C·r², H, W) → (…, C, H·r, W·r): the r² channels of a result go together."""
    x, dim = call["self"], call["self"].ndim - 3
    dims = {d: v for d, v in x.dims.items() if d < dim}
    call.c.pin(*x.at(-1), *x.at(-2))
    if x.at(dim):
        dims[dim] = (_rearranged_channels(call, call.c.single(x.at(dim)), call["upscale_factor"] ** 2),)
    return Labels(call.shape).with_dims(dims)


@operator("aten.pixel_unshuffle")
def _pixel_unshuffle(call: Call) -> Labels:
    """(…, C, H·r, W·r) → (…, C·r², H, W): a channel becomes r² that go together."""
    x, dim, r = call["self"], call["self"].ndim - 3, call["downscale_factor"]
    call.c.pin(*x.at(-1), *x.at(-2))
    dims = {d: v for d, v in x.dims.items() if d < dim}
    dims[dim] = tuple(np.repeat(v, r * r) for v in x.at(dim))
    return Labels(call.shape).with_dims(dims)


def _rewrite_shuffle(r: Rewriter) -> None:
    source = r.node_of("self")
    if r.changes(source, 1):
        per_group = r.labels(source).shape[1] // r["groups"]
        r.set("groups", int(r.mask(source, 1).reshape(-1, per_group).any(axis=1).sum()))


@operator("aten.channel_shuffle", "aten.native_channel_shuffle", rewrite=_rewrite_shuffle)
def _channel_shuffle(call: Call) -> Labels:
    """View as (groups, n), transpose, flatten."""
    x, g = call["self"], call["groups"]
    blocks = reshape(call.c, x, (x.shape[0], g, x.shape[1] // g, *x.shape[2:]))
    order = [0, 2, 1, *range(3, blocks.ndim)]
    turned = _permuted(blocks, order, tuple(blocks.shape[d] for d in order))
    return reshape(call.c, turned, call.shape)
