"""Where a network computes attention with heads that became smaller."""

from __future__ import annotations

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
from secateur.recovery.attention.ahead import between
from secateur.recovery.attention.movement import moved
from secateur.recovery.attention.operands import Operand, Unrepaired, operand

__all__ = ["Attention", "Head", "attentions"]


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
    query, key = (operand(pair.dense.module, node, flipped) for node, flipped in _operands(product))
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
        if channels & set((found.entries % outputs).flatten().tolist()):
            left += [u for u in node.users if u not in inner]
    return False


def _leaves(node: Node) -> bool:
    """Whether a value does nothing but leave the network."""
    return node.op == "output" or (bool(node.users) and all(_leaves(u) for u in node.users))
