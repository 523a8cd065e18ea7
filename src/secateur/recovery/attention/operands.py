"""Queries and keys of an attention: which layer they come out of, and what is done to its outputs on the way."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from secateur.criteria.least_squares.sites import uses_of
from secateur.graph.facts import Kind
from secateur.graph.flow import shape_of
from secateur.graph.ops import facts
from secateur.graph.schema import arguments, plain_name
from secateur.graph.writes import mutates
from secateur.recovery.attention.ahead import between
from secateur.recovery.attention.movement import Moved, mixes_vectors, moved

__all__ = ["Operand", "Projection", "Unrepaired", "operand"]


class Unrepaired(Exception):
    """Why the queries and keys of an attention stay as they were cut; one sentence for the user."""


@dataclass(frozen=True)
class Projection:
    """A linear layer: rows (n, p) times a weight, plus a bias.

    Attributes:
        node: Its call.
        input: What it is given, with channels last.
        weight: What it multiplies with: a weight of the network, or pieces of one.
        bias: The same of the bias, or ``None``.
        stored: The weight of the network that ``weight`` is made of, and the operators between.
        stored_bias: The same of the bias.
        inputs_first: Whether ``weight`` is (p, outputs) instead of (outputs, p).
    """

    node: Node
    input: Node
    weight: Node
    bias: Node | None
    stored: tuple[Node, tuple[Node, ...]]
    stored_bias: tuple[Node, tuple[Node, ...]] | None
    inputs_first: bool


@dataclass(frozen=True)
class Operand:
    """Queries or keys as the product Q·Kᵀ takes them.

    Attributes:
        projection: The layer that they come out of.
        node: The operand, (…, positions, head size), or its transpose.
        transposed: Whether it is the transpose.
        vectors: Where the layer's outputs stand head by head, (…, head size); the operand itself if nothing mixes them.
        gather: Operators from the layer to ``vectors``: they move entries, and multiply all of them by one number.
        scale: That number.
        mix: Operators from ``vectors`` on that are linear in every head's vector at every position (a rotation).
        spread: Operators from there to ``node``: they move entries.
    """

    projection: Projection
    node: Node
    transposed: bool
    vectors: Node
    gather: tuple[Node, ...]
    scale: float
    mix: tuple[Node, ...]
    spread: tuple[Node, ...]


def operand(graph: GraphModule, node: Any, transposed: bool) -> Operand:
    """How queries or keys come out of a layer.

    Raises:
        Unrepaired: Not out of one linear layer alone, or otherwise than by moving, scaling and rotating its outputs.
    """
    projection = _projection(graph, _source(node))
    start = projection.node
    path = between(start, node)
    if any(mutates(n) for n in path):
        raise Unrepaired("they are written in place")
    known = moved(path, start)
    if not path or node in known:
        scale = known[node].scale if path else 1.0
        return Operand(projection, node, transposed, node, tuple(path), scale, (), ())
    through = [n for n in path if _between_all(n, path, start, node)]
    vectors = next((n for n in reversed(through) if n in known), None)
    if vectors is None:
        raise Unrepaired("their layer's outputs are not taken apart into heads before something else is done to them")
    for mixed in through[through.index(vectors) + 1 :]:
        spread = between(mixed, node)
        if shape_of(mixed) == shape_of(vectors) and (not spread or _unscaled(moved(spread, mixed).get(node))):
            mix = between(vectors, mixed)
            if not mixes_vectors(mix, vectors):
                break
            gather = tuple(between(start, vectors))
            return Operand(
                projection, node, transposed, vectors, gather, known[vectors].scale, tuple(mix), tuple(spread)
            )
    raise Unrepaired("they are not linear in their layer's outputs (normalised, say)")


def _unscaled(found: Moved | None) -> bool:
    return found is not None and found.scale == 1


def _between_all(node: Node, path: Sequence[Node], start: Node, end: Node) -> bool:
    """Whether every way from ``start`` to ``end`` goes through ``node``."""
    return {node, *between(start, node), *between(node, end)} == set(path)


def _source(operand: Any) -> Node:
    """The only layer that an operand comes out of."""
    found, seen, left = [], set(), [operand]
    while left:
        node = left.pop()
        if not isinstance(node, Node) or node in seen:
            continue
        seen.add(node)
        if _layer(node) is not None:
            found.append(node)
        else:
            left += node.all_input_nodes
    if len(found) != 1:
        raise Unrepaired(f"they come out of {len(found)} linear layers" if found else "no linear layer gives them")
    return found[0]


def _layer(node: Node) -> tuple[Any, Any, Any, bool] | None:
    """Input, weight, bias of a linear layer's call, and whether the weight has its inputs first."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    call, name = arguments(node), plain_name(node.target)
    if facts(node).kind is Kind.LINEAR:
        made = call["input"], call["weight"], call.get("bias"), False
    elif name == "aten.addmm" and call["alpha"] == 1 and call["beta"] == 1:
        made = call["mat1"], call["mat2"], call["self"], True
    elif name in ("aten.mm", "aten.matmul"):
        made = call["self"], call["mat2" if name == "aten.mm" else "other"], None, True
    else:
        return None
    weighted = _stored(made[1]) is not None and made[1].meta["val"].ndim == 2
    return made if weighted and (made[2] is None or _stored(made[2]) is not None) else None


def _stored(node: Any) -> tuple[Node, tuple[Node, ...]] | None:
    """The tensor of the network that a weight is, or is a piece of, and the operators between."""
    steps: list[Node] = []
    while isinstance(node, Node) and node.op != "get_attr":
        if len(node.all_input_nodes) != 1 or node.op != "call_function":
            return None
        steps.append(node)
        node = node.all_input_nodes[0]
    return (node, tuple(reversed(steps))) if isinstance(node, Node) else None


def _projection(graph: GraphModule, node: Node) -> Projection:
    layer = _layer(node)
    assert layer is not None
    x, weight, bias, inputs_first = layer
    stored = _stored(weight)
    stored_bias = None if bias is None else _stored(bias)
    assert stored is not None
    for one in (stored, stored_bias):
        if one is not None and not _own(graph, *one):
            raise Unrepaired(f"the weight {one[0].target!s} is used elsewhere too, or computed")
    return Projection(node, x, weight, bias, stored, stored_bias, inputs_first)


def _own(graph: GraphModule, stored: Node, steps: Sequence[Node]) -> bool:
    """Whether a weight goes into nothing else: one operator takes it, and hands every piece to one other."""
    held = operator.attrgetter(str(stored.target))(graph)
    known = moved(steps, stored) if steps else {}
    several = [s for s in steps if not isinstance(s.meta.get("val"), Tensor)]
    return (
        isinstance(held, Tensor) and held.is_floating_point() and uses_of(graph)[id(held)] == 1
        and all(len(s.users) == 1 for s in steps if s not in several)
        and (not steps or _unscaled(known.get(steps[-1])))
    )  # fmt: skip
