"""Contractions: the contracted labels are united, the result carries the labels of what is left."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from secateur.graph.facts import Facts, Kind, Only
from secateur.graph.flow import Call, MacTerm
from secateur.graph.labels import Labels, Vector
from secateur.graph.ops.elementwise import join
from secateur.graph.rules import facts, operator

if TYPE_CHECKING:
    from torch.fx import Node

    from secateur.graph.rewriting import Rewriter


# ---------------------------------------------------------------------------------------------- convolution


def _conv_macs(call: Call) -> MacTerm:
    """MACs = positions × kernel elements × weight dimension 0 × weight dimension 1 (that is, C_in/groups).

    Positions are those of the output; of the input for a transposed convolution.
    """
    x, w = call["input"], call["weight"]
    shape = x.shape if _transposed(call.node) else call.shape
    batch = shape[0] if x.ndim == w.ndim else 1
    positions = prod(shape[2 - w.ndim :])
    return MacTerm(float(batch * positions * prod(w.shape[2:])), ((w, 0), (w, 1)))


def _conv_rewrite(r: Rewriter) -> None:
    """Keeps the size of each group where positions go, and drops whole groups where blocks go."""
    groups = r["groups"]
    if isinstance(groups, int) and groups > 1:  # groups that are the batch (weights of every sample) stay
        channels = r.new_size(r.node_of("input"), 1)
        weight = r.node_of("weight")
        if _transposed(r.dense):
            r.set("groups", _groups_left(r.labels(weight).shape[0] // groups, r.mask(weight, 0)))
        else:
            r.set("groups", channels // r.new_size(weight, 1))


def _groups_left(per_group: int, keep: Any) -> int:
    return int(np.asarray(keep).reshape(-1, per_group).any(axis=1).sum())


def _transposed(node: Node) -> bool:
    return facts(node).kind is Kind.CONV_TRANSPOSE


@operator("aten.conv1d", "aten.conv2d", "aten.conv3d", rewrite=_conv_rewrite, macs=_conv_macs,
          facts=Facts(kind=Kind.CONV))  # fmt: skip
@operator("aten.conv_transpose1d", "aten.conv_transpose2d", "aten.conv_transpose3d", rewrite=_conv_rewrite,
          macs=_conv_macs, facts=Facts(kind=Kind.CONV_TRANSPOSE))  # fmt: skip
@operator("aten.convolution", rewrite=_conv_rewrite, macs=_conv_macs,
          facts=Facts(kind=Kind.CONV, only=(Only("kind", "transposed", False, Kind.CONV_TRANSPOSE),)))  # fmt: skip
def _conv(call: Call) -> Labels:
    """x (N, C, …) with weight (O, C/groups, k…), or (C, O/groups, k…) when transposed.

    Several groups tie the input and output channels of a block together: either whole groups go, or the
    same positions in every group.
    """
    c, x, w, bias = call.c, call["input"], call["weight"], call.get("bias")
    groups, transposed = call["groups"], _transposed(call.node)
    batched = x.ndim == w.ndim
    for d in range(2, w.ndim):
        c.pin(*w.at(d))
    for d in range(int(batched) + 1, x.ndim):
        c.pin(*x.at(d))
    channels = int(batched)
    call.flow.consume(w, 0 if transposed else 1)
    if groups == 1:
        c.tie(x.at(channels), w.at(0 if transposed else 1))
        out = w.at(1 if transposed else 0)
    elif transposed:
        out = _grouped_transposed(call, x.at(channels), groups)
    else:
        out = _grouped(call, x.at(channels), groups)
    if isinstance(bias, Labels):
        c.tie(out, bias.at(0))
    dims = {channels: out} | ({0: x.at(0)} if batched else {})
    return Labels(call.shape).with_dims(dims)


def _grouped(call: Call, x: tuple[Vector, ...], groups: int) -> tuple[Vector, ...]:
    c = call.c
    w: Labels = call["weight"]
    if not x or not w.at(0):  # the input, or a fixed kernel repeated for every channel
        c.pin(*x, *w.at(0), *w.at(1))
        return ()
    inner = c.split(c.single(x).reshape(groups, -1), _whole(x[0], groups))
    outer = c.split(c.single(w.at(0)).reshape(groups, -1), _whole(w.at(0)[0], groups))
    _tie_axes(call, inner, outer)
    if w.shape[1] > 1:
        c.tie((inner[1],) if 1 in inner else (), w.at(1))
    else:
        c.pin(*w.at(1))
    return w.at(0)


def _whole(channels: Vector, groups: int) -> int | None:
    """A depthwise convolution loses whole groups (one input channel each) whatever its multiplier."""
    return 0 if len(channels) == groups else None


def _tie_axes(call: Call, a: dict[int, Vector], b: dict[int, Vector]) -> None:
    """Ties the group axis of input and output."""
    call.c.tie((a[0],) if 0 in a else (), (b[0],) if 0 in b else ())


def _grouped_transposed(call: Call, x: tuple[Vector, ...], groups: int) -> tuple[Vector, ...]:
    """The weight's dimension 1 holds the positions of every group; the groups come from the input."""
    c, w = call.c, call["weight"]
    c.tie(x, w.at(0))
    if not x or not w.at(0) or not w.at(1):
        c.pin(*w.at(1))
        return ()
    axes = c.split(c.single(x).reshape(groups, -1), _whole(x[0], groups))
    positions = np.tile(c.single(w.at(1)), groups)
    if 0 not in axes:
        return (positions,)
    blocks = np.repeat(axes[0], w.shape[1])
    return (blocks,) if w.shape[1] == 1 else (blocks, positions)


# ------------------------------------------------------------------------------------------ linear and matmul


def _linear_macs(call: Call) -> MacTerm:
    x, w = call["input"], call["weight"]
    rows = tuple((x, d) for d in range(1, x.ndim - 1))
    return MacTerm(float(x.shape[0] if x.ndim > 1 else 1), (*rows, (w, 0), (w, 1)))


def _bilinear_macs(call: Call) -> MacTerm:
    """Positions × O × I₁ × I₂ (the second product is small beside the first)."""
    x, w = call["input1"], call["weight"]
    rows = tuple((x, d) for d in range(1, x.ndim - 1))
    return MacTerm(float(x.shape[0] if x.ndim > 1 else 1), (*rows, (w, 0), (w, 1), (w, 2)))


@operator("aten.bilinear", macs=_bilinear_macs)
def _bilinear(call: Call) -> Labels:
    """x₁ (…, I₁) and x₂ (…, I₂) with weight (O, I₁, I₂)."""
    c, a, b, w, bias = call.c, call["input1"], call["input2"], call["weight"], call.get("bias")
    c.tie(a.at(-1), w.at(1))
    c.tie(b.at(-1), w.at(2))
    call.flow.consume(w, 1)
    call.flow.consume(w, 2)
    if isinstance(bias, Labels):
        c.tie(w.at(0), bias.at(0))
    shape = call.shape
    lead = [Labels(t.shape[:-1]).with_dims({d: v for d, v in t.dims.items() if d < t.ndim - 1}) for t in (a, b)]
    rows = join(c, lead, shape[:-1])
    return Labels(shape).with_dims({**rows.dims, len(shape) - 1: w.at(0)})


@operator("aten.linear", macs=_linear_macs, facts=Facts(kind=Kind.LINEAR))
def _linear(call: Call) -> Labels:
    """x (…, I) with weight (O, I)."""
    c, x, w, bias = call.c, call["input"], call["weight"], call.get("bias")
    call.flow.consume(w, 1)
    c.tie(x.at(-1), w.at(1))
    if isinstance(bias, Labels):
        c.tie(w.at(0), bias.at(0))
    if w.ndim == 2 and w.shape[0] == w.shape[1] and w.at(0) and w.at(1) and _has_one_width(call):
        c.alike(c.single(w.at(0)), c.single(w.at(1)))
    dims = {d: x.at(d) for d in range(x.ndim - 1)} | {x.ndim - 1: w.at(0)}
    return Labels(call.shape).with_dims(dims)


def _has_one_width(call: Call) -> bool:
    """Whether the heads are as wide together as what they take, as :class:`nn.MultiheadAttention` has it."""
    kinds = [kind for _, kind in (call.node.meta.get("nn_module_stack") or {}).values()]
    return bool(kinds) and isinstance(kinds[-1], type) and issubclass(kinds[-1], nn.MultiheadAttention)


def _matmul_operands(call: Call) -> tuple[Labels, Labels]:
    first, second, *rest = call.tensors
    return (second, rest[0]) if rest else (first, second)  # a third one is added to their product


def _matmul_macs(call: Call) -> MacTerm:
    a, _ = _matmul_operands(call)
    out = call.flow.labels[call.node]
    kept = tuple((out, d) for d in range(1, out.ndim))
    return MacTerm(float(out.shape[0] if out.ndim else 1), (*kept, (a, a.ndim - 1)))


# Vectors have no batch: this is work on weights, not on samples.
@operator("aten.mv", "aten.dot", "aten.vdot", facts=Facts(kind=Kind.MATMUL))
@operator("aten.matmul", "aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm", macs=_matmul_macs,
          facts=Facts(kind=Kind.MATMUL))  # fmt: skip
def _matmul(call: Call) -> Labels:
    """a (…, m, k) with b (…, k, n): k is contracted, leading dimensions broadcast."""
    c, (a, b) = call.c, _matmul_operands(call)
    c.tie(a.at(-1), b.at(-2) if b.ndim > 1 else b.at(0))
    call.flow.consume(b, -2 if b.ndim > 1 else 0)
    shape = call.shape
    lead = shape[: len(shape) - (a.ndim > 1) - (b.ndim > 1)]
    batch = join(
        c,
        [
            Labels(t.shape[:-2]).with_dims({d: v for d, v in t.dims.items() if d < t.ndim - 2})
            for t in (a, b)
            if t.ndim > 2
        ],
        lead,
    )
    dims = dict(batch.dims)
    if a.ndim > 1:
        dims[len(lead)] = a.at(-2)
    if b.ndim > 1:
        dims[len(shape) - 1] = b.at(-1)
    out = Labels(shape).with_dims(dims)
    extra = call.tensors[0]
    return out if extra is a else join(c, [out, extra], shape)
