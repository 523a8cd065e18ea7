"""Mistakes in graphs: operators dropped, exchanged or called with other constants."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F
from torch.fx import Node

from planted.base import Cut, Mistake, half_of_the_groups, kind, some, with_attributes
from planted.nodes import argument, edited, nodes, op, replaced

ACTIVATIONS = {
    "relu": torch.ops.aten.relu.default, "gelu": torch.ops.aten.gelu.default, "silu": torch.ops.aten.silu.default,
    "tanh": torch.ops.aten.tanh.default, "sigmoid": torch.ops.aten.sigmoid.default,
}  # fmt: skip


@kind("activation exchanged or dropped")
def _activation(cut: Cut, rng: random.Random) -> Mistake | None:
    names = (*ACTIVATIONS, "leaky_relu", "hardswish", "hardsigmoid", "prelu", "elu")
    if (node := some(rng, nodes(cut, *names))) is None:
        return None
    if rng.random() < 0.4:
        return edited(node, "dropped", lambda n: n.replace_all_uses_with(n.args[0]))  # type: ignore[arg-type]
    other = rng.choice([t for n, t in ACTIVATIONS.items() if n != op(node)])

    def edit(n: Node) -> None:
        n.target, n.args, n.kwargs = other, n.args[:1], {}

    return edited(node, str(other), edit)


@kind("residual or operator dropped")
def _residual(cut: Cut, rng: random.Random) -> Mistake | None:
    found = [n for n in nodes(cut, "add", "mul") if len(n.args) > 1 and all(isinstance(a, Node) for a in n.args[:2])]
    if (node := some(rng, found)) is None:
        return None
    side = rng.randrange(2)
    return edited(node, f"operand {side} alone", lambda n: n.replace_all_uses_with(n.args[side]))  # type: ignore[arg-type]


@kind("residual or operator dropped")
def _dropped(cut: Cut, rng: random.Random) -> Mistake | None:
    """An operator whose output has its input's shape is left out."""
    shape = {n: getattr(n.meta.get("val"), "shape", None) for n in cut.graph}
    found = [n for n in cut.graph if n.op.startswith("call") and n.args and isinstance(n.args[0], Node)
             and shape[n] is not None and shape[n] == shape[n.args[0]]]  # fmt: skip
    if (node := some(rng, found)) is None:
        return None
    return edited(node, "left out", lambda n: n.replace_all_uses_with(n.args[0]))  # type: ignore[arg-type]


@kind("attention scaled for another head size")
def _scale(cut: Cut, rng: random.Random) -> Mistake | None:
    found = [n for n in nodes(cut, "mul", "div") if len(n.args) > 1 and isinstance(n.args[1], float)]
    found += nodes(cut, "scaled_dot_product_attention")
    if (node := some(rng, found)) is None:
        return None
    if op(node) in ("mul", "div"):
        return argument(node, 1, node.args[1] * 2**0.5)
    scale = node.kwargs.get("scale")
    return edited(node, "scale", lambda n: n.update_kwarg("scale", scale * 2**0.5 if scale else 0.25))


@kind("eps or normalised shape")
def _eps(cut: Cut, rng: random.Random) -> Mistake | None:
    norms = [n for n in nodes(cut, "layer_norm", "group_norm", "rms_norm") if len(n.args) > 1]
    frozen = [n for n in cut.graph if n.op == "call_module" and hasattr(cut.model.get_submodule(str(n.target)), "eps")]
    added = [n for n in nodes(cut, "add") if len(n.args) > 1 and isinstance(n.args[1], float) and n.args[1] < 1e-2]
    if (node := some(rng, norms + frozen + added)) is None:
        return None
    factor = rng.choice((10.0, 0.1))
    if node in added:
        return argument(node, 1, node.args[1] * factor)
    if node in frozen:
        eps = cut.model.get_submodule(str(node.target)).eps  # type: ignore[union-attr]
        return with_attributes(str(node.target), "eps", eps=eps * factor)
    if op(node) == "layer_norm" and rng.random() < 0.2:
        return argument(node, 1, [6, *node.args[1]])
    position = 3 if op(node) == "rms_norm" else 4
    default = node.args[position] if len(node.args) > position and node.args[position] else 1e-5
    return argument(node, position, default * factor)


@kind("mask lost")
def _mask_node(cut: Cut, rng: random.Random) -> Mistake | None:
    attention = nodes(cut, "scaled_dot_product_attention")
    masks = [n for n in nodes(cut, "masked_fill", "where") if not isinstance(n.args[1], (int, float))]
    masked = [n for n in attention if (len(n.args) > 3 and n.args[3] is not None) or n.kwargs.get("attn_mask")]
    causal = [n for n in attention if n not in masked]
    if (node := some(rng, masked + causal + masks)) is None:
        return None
    if node in masks:
        return edited(node, "as it was", lambda n: n.replace_all_uses_with(n.args[op(n) == "where"]))  # type: ignore[arg-type]
    if node in masked:
        return edited(node, "no mask", lambda n: _attending(n, causal=False))
    was = node.args[5] if len(node.args) > 5 else node.kwargs.get("is_causal", False)
    return edited(node, f"causal: {not was}", lambda n: _attending(n, causal=not was))


def _attending(node: Node, causal: bool) -> None:
    """Attention without a mask tensor, over all that came before or over everything."""
    node.args = (*node.args[:3], None, 0.0, causal)
    node.kwargs = {k: v for k, v in node.kwargs.items() if k not in ("attn_mask", "dropout_p", "is_causal")}


@kind("padding on the wrong side")
def _padding(cut: Cut, rng: random.Random) -> Mistake | None:
    pads = [n for n in nodes(cut, "pad", "constant_pad_nd") if any(isinstance(p, int) and p for p in n.args[1])]
    convs = [n for n in nodes(cut, "conv2d") if len(n.args) > 4 and isinstance(n.args[4], (list, tuple)) and
             max(n.args[4]) > 0]  # fmt: skip
    if (node := some(rng, pads * 3 + convs)) is None:
        return None
    if node in pads:
        step, odd = rng.choice((1, -1)), [k for k, p in enumerate(node.args[1]) if p]
        at = rng.choice(odd) // 2 * 2
        sides = list(node.args[1])
        sides[at], sides[at + 1] = sides[at] + step, sides[at + 1] - step
        return argument(node, 1, sides)
    height, width = node.args[4]

    def edit(n: Node) -> None:
        with n.graph.inserting_before(n):
            padded = n.graph.call_function(F.pad, (n.args[0], [2 * width, 0, 2 * height, 0]))
        n.update_arg(0, padded)
        n.update_arg(4, [0, 0])

    return edited(node, "padded on one side", edit)


@kind("groups of a layer or a shuffle")
def _groups(cut: Cut, rng: random.Random) -> Mistake | None:
    convs = [n for n in nodes(cut, "conv2d", "conv_transpose2d", "conv1d") if isinstance(n.args[-1], int)
             and n.args[-1] > 1 and len(n.args) > 6]  # fmt: skip
    norms = nodes(cut, "group_norm")
    shuffles = [n for n in nodes(cut, "view", "reshape") if len(n.args[1]) == 5]
    node = some(rng, convs + norms + shuffles)
    if node is None:
        return None
    if node in norms:
        return argument(node, 1, rng.choice([g for g in (node.args[1] * 2, node.args[1] // 2) if g]))
    if node in shuffles:
        sizes = list(node.args[1][1:3])
        if not all(isinstance(s, int) and s > 1 for s in sizes):
            return None
        a, b = (sizes[0] * 2, sizes[1] // 2) if sizes[1] % 2 == 0 and rng.random() < 0.6 else sizes[::-1]
        return edited(node, f"shuffle {a} × {b}", replaced(1, lambda s: [s[0], a, b, *s[3:]]))
    count, at = node.args[-1], len(node.args) - 1
    if rng.random() < 0.3 or count % 2 or op(node) == "conv_transpose2d":
        return argument(node, at, max(1, count // 2))
    inner = argument(node, at, count // 2)
    return half_of_the_groups(str(node.args[1].target), lambda model: inner.change(model, {}))


@kind("another pooling or shift")
def _pool(cut: Cut, rng: random.Random) -> Mistake | None:
    if (node := some(rng, nodes(cut, "max_pool2d", "avg_pool2d", "roll"))) is None:
        return None
    if op(node) == "roll":
        return argument(node, 1, [-s for s in node.args[1]])
    other = {"max_pool2d": torch.ops.aten.avg_pool2d.default, "avg_pool2d": torch.ops.aten.max_pool2d.default}[op(node)]

    def edit(n: Node) -> None:
        n.target, n.args, n.kwargs = other, n.args[:3], {}

    return edited(node, str(other), edit)


@kind("stale bias")
def _no_bias(cut: Cut, rng: random.Random) -> Mistake | None:
    found = [n for n in nodes(cut, "linear", "conv2d") if len(n.args) > 2 and isinstance(n.args[2], Node)]
    if (node := some(rng, found)) is None:
        return None
    return argument(node, 2, None)
