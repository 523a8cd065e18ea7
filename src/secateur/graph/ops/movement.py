"""Data movement: what an operator does to the numbers, it does to their labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from secateur.graph.flow import Call, shape_of, unlabelled
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.ops.reshape import reshape, rewrite_sizes
from secateur.graph.rules import facts, operator

if TYPE_CHECKING:
    from secateur.graph.rewriting import Rewriter

__all__: list[str] = []

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


@operator("aten.expand", "aten.broadcast_to", rewrite=rewrite_sizes("size"))
def _expand(call: Call) -> Labels:
    """A dimension that grows from 1 must keep its only entry, and gets fewer copies where what they meet gets fewer."""
    x, shape = call["self"], call.shape
    return Labels(shape).with_dims({**join(call.c, [x], shape).dims, **_copies(call, _grown(x, shape))})


def _grown(x: Labels, shape: Sequence[int]) -> list[int]:
    """Dimensions that are new or grow from 1."""
    more = len(shape) - x.ndim
    return [d for d, size in enumerate(shape) if size > 1 and (d < more or x.shape[d - more] != size)]


def _copies(call: Call, dims: Sequence[int]) -> dict[int, tuple[Vector, ...]]:
    """Fresh labels for copies of one entry; none where they become part of another dimension (keys for many heads)."""
    merged = call.node.meta["val"].is_floating_point() and any(map(partial(_merges, call.node), call.node.users))
    return {} if merged else {d: (call.c.fresh(call.shape[d]),) for d in dims}


def _merges(node: Node, user: Node) -> bool:
    """Whether dimensions become one, besides those of one entry."""
    if not facts(user).same_entries or not isinstance(user.meta.get("val"), Tensor):
        return False
    return [s for s in shape_of(node) if s != 1] != [s for s in shape_of(user) if s != 1]


@operator("aten.expand_as")
def _expand_as(call: Call) -> Labels:
    """A dimension that grows from 1 loses what that of the other tensor loses."""
    x, other, shape = call["self"], call["other"], call.shape
    joined = join(call.c, [x], shape)
    return Labels(shape).with_dims({**joined.dims, **{d: other.at(d) for d in _grown(x, shape)}})


@operator("aten.broadcast_tensors")
def _broadcast(call: Call) -> list[Labels]:
    """Every tensor at the size that all of them have together."""
    shape = unlabelled(call.node)[0].shape
    together = join(call.c, call["tensors"], shape)
    return [together] * len(call["tensors"])


def _rewrite_repeat(r: Rewriter) -> None:
    """As many copies of one entry as are left."""
    source, times = r.node_of("self"), list(r["repeats"])
    more = len(times) - len(r.labels(source).shape)
    for d in range(len(times)):
        if (d < more or r.labels(source).shape[d - more] == 1) and isinstance(times[d], int) and r.changes(r.node, d):
            times[d] = r.new_size(r.node, d)
    if times != list(r["repeats"]):
        r.set("repeats", times)


@operator("aten.tile")
@operator("aten.repeat", rewrite=_rewrite_repeat)
def _repeat(call: Call) -> Labels:
    """Entries come round with their labels; copies of a single one are as those of ``expand``, which it has to keep."""
    x, shape = call["self"], call.shape
    more = len(shape) - x.ndim
    copies = [d for d, size in enumerate(shape) if size > 1 and (d < more or x.shape[d - more] == 1)]
    call.c.pin(*(v for d in copies if d >= more for v in x.at(d - more)))
    dims = {d: tuple(np.tile(v, shape[d] // len(v)) for v in x.at(d - more))
            for d in range(more, len(shape)) if d not in copies}  # fmt: skip
    tiled = call.node.target._opname == "tile"  # type: ignore[union-attr]  # whose sizes nobody rewrites
    return Labels(shape).with_dims({**dims, **({} if tiled else _copies(call, copies))})


@operator("aten.repeat_interleave")
def _repeat_interleave(call: Call) -> Any:
    x, dim, times = call.get("self"), call.get("dim"), call.get("repeats")
    if dim is None or x is None:
        return call.pin("all entries are repeated as one row")
    if not isinstance(times, int) or call.get("output_size") is not None:
        call.hold("entries of this dimension are repeated by numbers", [x.with_dims({dim % x.ndim: x.at(dim)})])
        return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim % x.ndim})
    dims = {d: tuple(np.repeat(v, times) for v in x.at(d)) if d == dim % x.ndim else x.at(d) for d in range(x.ndim)}
    return Labels(call.shape).with_dims(dims)


@operator("aten.flip", "aten.fliplr", "aten.flipud")
def _flip(call: Call) -> Labels:
    x: Labels = call["self"]
    name = call.node.target._opname  # type: ignore[union-attr]
    flipped = call.dims("dims") if name == "flip" else [name == "fliplr"]
    return x.with_dims({d: tuple(v[::-1] for v in x.at(d)) if d in flipped else x.at(d) for d in range(x.ndim)})


def _rewrite_roll(r: Rewriter) -> None:
    """As many entries come round as are left of those that came round before."""
    source = r.node_of("self")
    shape, shifts = r.labels(source).shape, list(r["shifts"])
    moved = [k for k, d in enumerate(r.get("dims") or ()) if r.changes(source, d % len(shape))]
    for k in moved:
        dim = r["dims"][k] % len(shape)
        shifts[k] = r.new_size(source, dim) - r.before(source, dim, shape[dim] - shifts[k] % shape[dim])
    if moved:
        r.set("shifts", shifts)


@operator("aten.roll", rewrite=_rewrite_roll)
def _roll(call: Call) -> Labels:
    """The labels come round as the entries do; without dimensions the tensor is rolled as one row, which pins."""
    x: Labels = call["self"]
    shifts, dims = call.nodes["shifts"], call.get("dims") or []
    if not dims or len(shifts) != len(dims) or not all(isinstance(s, int) for s in shifts):
        call.hold("the shift moves entries from one dimension to another or is unknown", [x])
        return x
    rolled = dict(x.dims)
    for shift, d in zip(shifts, dims, strict=True):
        rolled[d % x.ndim] = tuple(np.roll(v, shift) for v in rolled.get(d % x.ndim, ()))
    return x.with_dims(rolled)


# -------------------------------------------------------------------------------------------- pad and shuffle


def _rewrite_pad(r: Rewriter) -> None:
    """Amounts on a labelled dimension become the padded entries that are left."""
    source = r.node_of("self")
    shape, amounts, changed = r.labels(source).shape, list(r["pad"]), False
    for k in range(0, len(amounts), 2):
        dim = len(shape) - 1 - k // 2
        if r.changes(r.node, dim) and isinstance(amounts[k], int):
            before, after = amounts[k], amounts[k + 1]
            total = r.labels(r.node).shape[dim]
            changed = True
            amounts[k] = r.before(r.node, dim, before)
            amounts[k + 1] = r.new_size(r.node, dim) - r.before(r.node, dim, total - after)
    if changed:
        r.set("pad", amounts)


@operator("aten.pad", "aten.constant_pad_nd", rewrite=_rewrite_pad)
def _pad(call: Call) -> Labels:
    """Constant padding adds fresh labels that belong to no parameter; other modes and cropping pin."""
    x, amounts, c = call["self"], call.nodes["pad"], call.c
    constant = call.get("mode", "constant") == "constant"
    dims = dict(x.dims)
    for k in range(0, len(amounts), 2):
        dim, (before, after) = x.ndim - 1 - k // 2, amounts[k : k + 2]
        vectors = dims.pop(dim, ())
        if before == after == 0:
            dims[dim] = vectors
        elif constant and vectors and isinstance(before, int) and isinstance(after, int) and min(before, after) >= 0:
            ends = c.fresh(before), c.fresh(after)
            dims[dim] = (np.concatenate([ends[0], c.single(vectors), ends[1]]),)
            if before == after:
                c.alike(*ends)
        else:
            reason = "entries of this dimension are cut off, or repeated at its ends, by their position"
            call.hold(reason, [x.with_dims({dim: vectors})])
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


# -------------------------------------------------------------------------------------------- sliding windows


def _windows(call: Call, x: Labels, dims: Sequence[int]) -> None:
    """Dimensions over which windows slide keep all their entries."""
    call.hold("windows slide over this dimension", [x.with_dims({d % x.ndim: x.at(d) for d in dims})])


@operator("aten.unfold")
def _unfold(call: Call) -> Labels:
    """Sliding windows over one dimension; the window's own dimension comes last and carries no labels."""
    x, dim = call["self"], call["dimension"] % call["self"].ndim
    _windows(call, x, [dim])
    return Labels(call.shape).with_dims({d: v for d, v in x.dims.items() if d != dim})


@operator("aten.im2col")
def _im2col(call: Call) -> Labels:
    """(…, C, H, W) → (…, C·k², L): a channel becomes the k² that go together."""
    x, dim = call["self"], call["self"].ndim - 3
    _windows(call, x, [-1, -2])
    dims = {d: v for d, v in x.dims.items() if d < dim}
    dims[dim] = tuple(np.repeat(v, prod(call["kernel_size"])) for v in x.at(dim))
    return Labels(call.shape).with_dims(dims)


@operator("aten.col2im")
def _col2im(call: Call) -> Labels:
    """(…, C·k², L) → (…, C, H, W): the k² entries of a channel's windows go together."""
    x, dim = call["self"], call["self"].ndim - 2
    _windows(call, x, [-1])
    dims = {d: v for d, v in x.dims.items() if d < dim}
    if x.at(dim):
        dims[dim] = (_rearranged_channels(call, call.c.single(x.at(dim)), prod(call["kernel_size"])),)
    return Labels(call.shape).with_dims(dims)
