"""Where a network computes attention, and which layers its queries and keys come out of."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from secateur.criteria.least_squares.twin import Twin
from secateur.graph.facts import Kind
from secateur.graph.flow import module_of, shape_of
from secateur.graph.ops import facts
from secateur.graph.schema import arguments, plain_name
from secateur.graph.writes import mutates
from secateur.recovery.attention.ahead import between
from secateur.recovery.attention.movement import Moved, mixes_vectors, moved

__all__ = ["Attention", "Head", "Operand", "Projection", "Unrepaired", "attentions"]


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


@dataclass(frozen=True)
class Head:
    """A query head and the key head that it looks at, by output channels of their layers in the dense network."""

    query: tuple[int, ...]
    key: tuple[int, ...]


@dataclass(frozen=True)
class Attention:
    """softmax(scale · Q·Kᵀ + bias), in the dense graph.

    Attributes:
        name: Dotted name of the module that computes it.
        product: The fused attention, or the product Q·Kᵀ.
        logits: What the softmax is given, if the product is not fused.
        path: Operators from the product to the logits.
        query: The queries.
        key: The keys.
        heads: The query heads that the pruned network still has, those that share a key head one after the other.
        kept: The same heads by output channels of the layers in the pruned network.
        first: The first of the layers that the queries and keys come out of.
        outputs: How many outputs these layers have in the pruned network.
    """

    name: str
    product: Node
    logits: Node | None
    path: tuple[Node, ...]
    query: Operand
    key: Operand
    heads: tuple[Head, ...]
    kept: tuple[Head, ...]
    first: Node
    outputs: Mapping[Node, int]

    @property
    def shared(self) -> int:
        """How many query heads share a key head."""
        return sum(head.key == self.heads[0].key for head in self.heads)

    @property
    def alone(self) -> bool:
        """Whether its layers give nothing but queries and keys."""
        used: dict[Node, set[int]] = {}
        for side, name in ((self.query, "query"), (self.key, "key")):
            used.setdefault(side.projection.node, set()).update(c for h in self.kept for c in getattr(h, name))
        return all(len(channels) == self.outputs[node] for node, channels in used.items())


def attentions(pair: Twin) -> tuple[list[Attention], list[str]]:
    """The attentions of the dense network whose heads became smaller, in the order of execution.

    Returns:
        Those that can be repaired, and a note for each that cannot, with why.
    """
    found, notes = [], []
    for product, logits in _products(pair.dense.module):
        try:
            one = _attention(pair, product, logits)
        except Unrepaired as why:
            if _cut(pair, product):
                notes.append(f"{module_of(product) or product.name}: its queries and keys stay as they were cut: {why}")
            continue
        found += [] if one is None else [one]
    return found, notes


# ------------------------------------------------------------------------------------------------ the products


def _products(graph: GraphModule) -> Iterator[tuple[Node, Node | None]]:
    """Fused attentions, and products that a softmax follows, with what the softmax is given."""
    for node in graph.graph.nodes:
        if facts(node).kind is Kind.ATTENTION:
            yield node, None
        elif facts(node).kind is Kind.SOFTMAX and arguments(node)["dim"] in (-1, node.meta["val"].ndim - 1):
            logits = arguments(node)["self"]
            product = _product(logits)
            if product is not None:
                yield product, logits


_STEPS = 12
"""Operators between a product and the softmax behind it: scale, mask, bias, casts."""


def _product(logits: Node) -> Node | None:
    left, seen = [(logits, 0)], set()
    while left:
        node, steps = left.pop()
        if plain_name(node.target) in ("aten.matmul", "aten.bmm", "aten.baddbmm"):
            return node
        inputs = [n for n in node.all_input_nodes if n not in seen and _alike(n, logits)]
        seen.update(inputs)
        left += [(n, steps + 1) for n in inputs if steps < _STEPS]
    return None


def _alike(one: Node, other: Node) -> bool:
    a, b = (n.meta.get("val") for n in (one, other))
    return isinstance(a, Tensor) and isinstance(b, Tensor) and shape_of(one)[-2:] == shape_of(other)[-2:]


def _operands(product: Node) -> tuple[tuple[Any, bool], tuple[Any, bool]]:
    """Queries and keys of a product, each with whether it is the transpose of what is meant."""
    call = arguments(product)
    if facts(product).kind is Kind.ATTENTION:
        return (call["query"], False), (call["key"], False)
    names = {"aten.matmul": ("self", "other"), "aten.bmm": ("self", "mat2"), "aten.baddbmm": ("batch1", "batch2")}
    left, right = names[plain_name(product.target)]
    return (call[left], False), (call[right], True)


def _cut(pair: Twin, product: Node) -> bool:
    """Whether the vectors that are multiplied became shorter."""
    query = _operands(product)[0][0]
    labels = pair.groups.flow.labels.get(query)
    return labels is not None and labels.ndim - 1 in pair.groups.masks(labels, pair.label_keep)


def _attention(pair: Twin, product: Node, logits: Node | None) -> Attention | None:
    if not _cut(pair, product):
        return None
    query, key = (_operand(pair.dense.module, node, flipped) for node, flipped in _operands(product))
    path = () if logits is None else tuple(between(product, logits))
    every = _heads(query, key, product)
    heads, kept = _left(pair, query, key, every)
    place = pair.dense.place
    first = min((query.projection.node, key.projection.node), key=place.__getitem__)
    if any(place[side.projection.input] >= place[first] for side in (query, key)):
        raise Unrepaired("what one of them is computed from is not known yet where the other one is computed")
    own = {side.projection.node: set[int]() for side in (query, key)}
    for side, name in ((query, "query"), (key, "key")):
        own[side.projection.node].update(c for head in every for c in getattr(head, name))
    outputs = {node: len(_places(pair, node)) for node in own}
    inner = {n for side in (query, key) for n in (*side.gather, *side.mix, *side.spread)}
    if any(_escapes(node, channels, inner, product) for node, channels in own.items()):
        raise Unrepaired("something else in the network reads them too")
    return Attention(module_of(product) or product.name, product, logits, path, query, key, heads, kept, first, outputs)


# ------------------------------------------------------------------------------------------------ one operand


def _operand(graph: GraphModule, node: Node, transposed: bool) -> Operand:
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
    uses = Counter(
        id(operator.attrgetter(str(n.target))(graph)) for n in graph.graph.nodes if n.op == "get_attr" for _ in n.users
    )
    known = moved(steps, stored) if steps else {}
    several = [s for s in steps if not isinstance(s.meta.get("val"), Tensor)]
    return (
        isinstance(held, Tensor) and held.is_floating_point() and uses[id(held)] == 1
        and all(len(s.users) == 1 for s in steps if s not in several)
        and (not steps or _unscaled(known.get(steps[-1])))
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- the heads


def _heads(query: Operand, key: Operand, product: Node) -> tuple[Head, ...]:
    """Which channels meet in which head, from where they stand in the operands."""
    q, k = (_channels(side) for side in (query, key))
    if q.shape[-3:-2] != k.shape[-3:-2] and arguments(product).get("enable_gqa"):
        k = np.repeat(k, q.shape[-3] // k.shape[-3], -3)
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2])
    q, k = (np.broadcast_to(c, (*lead, *c.shape[-2:])).reshape(-1, *c.shape[-2:]) for c in (q, k))
    if (q != q[:, :1]).any() or (k != k[:, :1]).any():
        raise Unrepaired("positions of one head hold different channels")
    found = dict.fromkeys(Head(tuple(a), tuple(b)) for a, b in zip(q[:, 0].tolist(), k[:, 0].tolist(), strict=True))
    sizes = Counter(h.key for h in found)
    if len({h.query for h in found}) < len(found) or len(set(sizes.values())) > 1:
        raise Unrepaired("its heads share channels in another way than queries that look at the same keys")
    if len({(len(h.query), len(h.key)) for h in found}) > 1:
        raise Unrepaired("its heads have different sizes")
    order = list(sizes)
    return tuple(sorted(found, key=lambda h: order.index(h.key)))


def _left(pair: Twin, query: Operand, key: Operand, heads: Sequence[Head]) -> tuple[tuple[Head, ...], tuple[Head, ...]]:
    """The heads that the pruned network still has, by channels of the dense and of the pruned network."""
    places = [_places(pair, side.projection.node) for side in (query, key)]
    found = []
    for head in heads:
        q, k = (tuple(p[c] for c in own if c in p) for p, own in zip(places, (head.query, head.key), strict=True))
        if q and k:
            found.append((head, Head(q, k)))
    sizes, groups = {(len(h.query), len(h.key)) for _, h in found}, Counter(h.key for h, _ in found)
    if len(sizes) != 1 or len(set(groups.values())) > 1:
        raise Unrepaired("its heads were cut to different sizes")
    return tuple(h for h, _ in found), tuple(h for _, h in found)


def _places(pair: Twin, node: Node) -> dict[int, int]:
    """Where the channels of a layer's output that stay are in the pruned network."""
    labels = pair.groups.flow.labels[node]
    mask = pair.groups.masks(labels, pair.label_keep).get(labels.ndim - 1)
    stay = range(labels.shape[-1]) if mask is None else np.flatnonzero(mask).tolist()
    return {channel: place for place, channel in enumerate(stay)}


def _channels(side: Operand) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The layer's output channel of every entry of an operand, (…, positions, head size)."""
    start = side.projection.node
    outputs = shape_of(start)[-1]
    place = moved(side.gather, start)[side.vectors].entries if side.gather else _all(shape_of(start))
    channels = place % outputs
    if side.spread:
        channels = channels.flatten()[moved(side.spread, side.mix[-1])[side.node].entries]
    return (channels.mT if side.transposed else channels).numpy()


def _all(shape: tuple[int, ...]) -> Tensor:
    return torch.arange(int(np.prod(shape))).reshape(shape)


def _escapes(layer: Node, channels: set[int], inner: set[Node], product: Node) -> bool:
    """Whether some of a layer's outputs go anywhere but into the product (or, as a cache, out of the network)."""
    outputs = shape_of(layer)[-1]
    seen: set[Node] = set()
    left = [u for n in (layer, *inner) for u in n.users if u not in inner and u is not product]
    while left:
        node = left.pop()
        if node in seen or _leaves(node):
            continue
        seen.add(node)
        if not isinstance(node.meta.get("val"), Tensor):  # one of several results
            left += [u for u in node.users if u not in inner]
            continue
        found = moved(between(layer, node), layer).get(node)
        if found is None:
            return True
        if channels & set((found.entries % outputs).unique().tolist()):
            left += [u for u in node.users if u not in inner]
    return False


def _leaves(node: Node) -> bool:
    """Whether a value does nothing but leave the network."""
    return node.op == "output" or (bool(node.users) and all(_leaves(u) for u in node.users))
