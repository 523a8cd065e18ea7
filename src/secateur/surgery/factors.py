"""Factors that a network's code computes from a size, made good in its weights.

Attention divides by the root of the head size that it sees. Where the head size was cut, that is another number than
the dense network divides by, and no attribute says it. The layers that the queries come from are multiplied instead:
queries times √(new size / old size) leave the scores as they were.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from secateur.core.plan import Scaled
from secateur.graph.calling import preserved_rng
from secateur.graph.facts import Kind
from secateur.graph.groups import Groups
from secateur.graph.ops import facts
from secateur.graph.record import record_call
from secateur.graph.schema import arguments, plain_name
from secateur.graph.traced import Traced
from secateur.surgery.graph import Mask, rewritten

__all__ = ["folded", "scale_entries"]

ALIKE = 1e-12
"""Numbers of double precision that differ by less are the same."""


class _NoLayer(Exception):
    """What is multiplied comes out of no layer that could be multiplied instead."""


def folded(small: nn.Module, groups: Groups, label_keep: Mask) -> dict[str, tuple[Scaled, ...]]:
    """Finds the factors that ``small`` computes otherwise than the plan says, and the weights that make up for them.

    Args:
        small: A cut copy of the network, whose sizes fit; it is not touched.
        groups: Groups of the dense network.
        label_keep: Which labels stay, shape (labels,).

    Returns:
        What has to be multiplied, by name; where nothing can be, it is left out, and the proof says so.

    Raises:
        Unfollowed: ``small`` cannot be recorded.
    """
    view = groups.flow.traced
    if not view.recorded:
        return {}
    now = record_call(small, view.args, view.kwargs, method=view.method, training=view.training)
    found: dict[tuple[str, int], dict[int, float]] = {}
    for source, factor in _differing(view, rewritten(groups, label_keep, view), now):
        try:
            for name, dim, entries in _layer(now.module, source):
                found.setdefault((name, dim), {}).update(dict.fromkeys(entries, factor))
        except _NoLayer:
            continue
    scaled: dict[str, tuple[Scaled, ...]] = {}
    for (name, dim), factors in found.items():
        for factor in dict.fromkeys(factors.values()):
            places = tuple(sorted(k for k, f in factors.items() if f == factor))
            scaled[name] = (*scaled.get(name, ()), Scaled(dim, places, factor))
    return scaled


def scale_entries(tensor: Tensor, scaled: Sequence[Scaled]) -> Tensor:
    """A tensor of which some entries are multiplied.

    >>> scale_entries(torch.ones(3), [Scaled(0, (1,), 0.5)])
    tensor([1.0000, 0.5000, 1.0000])
    """
    made = tensor.detach().clone()
    for one in scaled:
        index = (slice(None),) * one.dim + (torch.as_tensor(one.entries, device=made.device),)
        made[index] *= one.factor
    return made


# ------------------------------------------------------------------------------------------------- what differs


def _differing(view: Traced, copies: Mapping[Node, Node], now: Traced) -> Iterator[tuple[Node, float]]:
    """Tensors of the small network that have to be larger, and how many times, as long as both call the same."""
    for dense, node in zip(view.operators, now.operators, strict=False):
        name = plain_name(node.target)
        if plain_name(dense.target) != name:
            return
        if facts(node).kind is Kind.ATTENTION:
            query = arguments(node)["query"]
            yield from _factor(query, _scale(copies[dense], dense), _scale(node, node))
        elif name == "aten.div":
            sides = [_number(t.module, arguments(n)["other"]) for t, n in ((now, node), (view, dense))]
            yield from _factor(arguments(node)["self"], *sides)
        elif name == "aten.mul":
            for side, other in (("other", "self"), ("self", "other")):
                sides = [_number(t.module, arguments(n)[side]) for t, n in ((view, dense), (now, node))]
                yield from _factor(arguments(node)[other], *sides)


def _scale(attention: Node, sized: Node) -> float:
    """What attention multiplies its scores by; where it does not say, by what the head size of ``sized`` says."""
    scale = arguments(attention)["scale"]
    return float(arguments(sized)["query"].meta["val"].shape[-1] ** -0.5 if scale is None else scale)


def _factor(source: Any, want: float | None, own: float | None) -> Iterator[tuple[Node, float]]:
    if isinstance(source, Node) and own and want and abs(want / own - 1) > ALIKE:
        yield source, want / own


def _number(module: GraphModule, value: Any) -> float | None:
    """A plain number, or what stands in a constant of one entry."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, Node) and value.op == "call_function" and facts(value).kind in (Kind.CAST, Kind.COPY):
        return _number(module, value.args[0])
    if isinstance(value, Node) and plain_name(value.target) in ("aten.lift_fresh_copy", "aten.sqrt", "aten.rsqrt"):
        inner = _number(module, value.args[0])
        power = {"aten.sqrt": 0.5, "aten.rsqrt": -0.5}.get(plain_name(value.target), 1.0)
        return None if inner is None else float(inner**power)
    if isinstance(value, Node) and value.op == "get_attr":
        held = operator.attrgetter(str(value.target))(module)
        named = {n for n, _ in module.named_parameters()}
        if isinstance(held, Tensor) and held.numel() == 1 and not held.is_meta and value.target not in named:
            return float(held)
    return None


# ---------------------------------------------------------------------------------------- what is multiplied instead


@dataclass(frozen=True)
class _Weights:
    """A layer: the tensors to multiply, with the dimension of its outputs in each, and that of its result."""

    named: tuple[tuple[str, int], ...]
    channels: int


def _layer(module: GraphModule, source: Node) -> Iterator[tuple[str, int, list[int]]]:
    """The tensors whose multiplication multiplies ``source``: name, dimension, entries.

    Raises:
        _NoLayer: There are none.
    """
    parameters = {n for n, _ in module.named_parameters(remove_duplicate=False)}
    layer, weights, source = _producer(source, parameters)
    entries = _reaching(layer, source, weights.channels)
    for name, dim in weights.named:
        yield name, dim, entries


def _producer(source: Node, parameters: set[str]) -> tuple[Node, _Weights, Node]:
    """The layer that a tensor comes out of, through operators that hand a factor on.

    Returns:
        The layer, its weights, and the tensor that has to be multiplied: of a product, one side.
    """
    node = source
    for _ in range(MOST_STEPS):
        found = _weights_of(node, parameters)
        if found is not None:
            return node, found, source
        before, node = node, _handed_on(node, parameters)
        if plain_name(before.target) in _PRODUCTS:
            source = node
    raise _NoLayer


MOST_STEPS = 64
"""Operators between a layer and the scores of an attention."""


def _weights_of(node: Node, parameters: set[str]) -> _Weights | None:
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    name, args, kind = plain_name(node.target), arguments(node), facts(node).kind
    own: list[tuple[Any, int]]
    if name in ("aten.addmm", "aten.mm", "aten.matmul"):
        weight = args.get("mat2", args.get("other"))
        own = [(weight, 1), (args.get("self") if name == "aten.addmm" else None, 0)]
    elif kind in (Kind.LINEAR, Kind.CONV, Kind.BATCH_NORM) or name in ("aten.layer_norm", "aten.rms_norm"):
        own = [(args.get("weight"), 0), (args.get("bias"), 0)]
    elif name == "aten.mul":
        weight = next((a for a in (args["self"], args["other"]) if _is_parameter(a, parameters)), None)
        own = [(weight, 0)]
    else:
        return None
    if not _is_parameter(own[0][0], parameters) or (name == "aten.mul" and own[0][0].meta["val"].ndim != 1):
        return None
    if any(isinstance(value, Node) and not _is_parameter(value, parameters) for value, _ in own):
        return None
    named = tuple((str(value.target), dim) for value, dim in own if isinstance(value, Node))
    return _Weights(named, 1 if kind in (Kind.CONV, Kind.BATCH_NORM) else -1)


def _is_parameter(value: Any, parameters: set[str]) -> bool:
    return isinstance(value, Node) and value.op == "get_attr" and value.target in parameters


_HAND_ON = {"aten.permute", "aten.transpose", "aten.expand", "aten.clone", "aten.contiguous", "aten.neg", "aten.repeat",
            "aten.flip", "aten.roll", "aten.unbind", "aten.select", "aten.slice", "aten.movedim", "aten.mul",
            "aten.div", "aten.add", "aten.sub", "aten.cat", "aten.stack", "aten.matmul", "aten.bmm", "aten.baddbmm",
            "aten.einsum", "aten.repeat_interleave", "aten.view_as_complex", "aten.view_as_real", "aten.sum",
            "aten.mean", "aten.index_select", "aten.index", "aten.gather"}  # fmt: skip


_PRODUCTS = {"aten.matmul", "aten.bmm", "aten.baddbmm", "aten.einsum", "aten.mul"}


def _handed_on(node: Node, parameters: set[str]) -> Node:
    """The operand that a factor comes from."""
    if node.op != "call_function":
        raise _NoLayer
    if node.target is operator.getitem:
        return node.all_input_nodes[0]
    known, name = facts(node), plain_name(node.target)
    if not (known.same_entries or known.kind in (Kind.COPY, Kind.CAST, Kind.RESHAPE, Kind.PIECE) or name in _HAND_ON):
        raise _NoLayer
    if name == "aten.baddbmm":
        node = node.args[1]  # type: ignore[assignment]
        return node
    live = [n for n in node.all_input_nodes if _depends(n, parameters)]
    if not live:
        raise _NoLayer
    return live[0]


def _depends(node: Node, parameters: set[str]) -> bool:
    """Whether a tensor is computed with a parameter."""
    seen, left = {node}, [node]
    while left:
        one = left.pop()
        if _is_parameter(one, parameters):
            return True
        left += [n for n in one.all_input_nodes if n not in seen]
        seen.update(one.all_input_nodes)
    return False


def _reaching(layer: Node, source: Node, channels: int) -> list[int]:
    """Which channels of a layer ``source`` depends on: the derivative of what lies between, at random values."""
    between = _between(layer, source)
    start: Tensor = _random(layer.meta["val"]).requires_grad_()
    known: dict[Node, Any] = {layer: start}

    def value(node: Node) -> Any:
        if node not in known:
            known[node] = _random(node.meta["val"])
        return known[node]

    with preserved_rng(), torch.enable_grad():
        torch.manual_seed(0)
        for node in between:
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), value)
            known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        result = known[source]
        if result is start:
            return list(range(start.shape[channels]))
        (slope,) = torch.autograd.grad((result * torch.randn_like(result)).sum(), start)
    moved = slope.abs().transpose(channels, -1).reshape(-1, start.shape[channels]).sum(0)
    return [int(k) for k in moved.nonzero().ravel()]


def _random(like: Any) -> Any:
    if not isinstance(like, Tensor):
        return like
    kind = like.dtype
    if not (kind.is_floating_point or kind.is_complex):
        return torch.zeros(like.shape, dtype=kind)
    return torch.randn(like.shape, dtype=torch.float64 if kind.is_floating_point else torch.complex128)


def _between(layer: Node, source: Node) -> list[Node]:
    """The operators that lie on the ways from a layer to a tensor, in order."""
    after = {layer}
    for node in list(layer.graph.nodes):
        if any(n in after for n in node.all_input_nodes):
            after.add(node)
    before, left = {source}, [source]
    while left:
        node = left.pop()
        if node is layer:
            continue
        left += [n for n in node.all_input_nodes if n in after and n not in before]
        before.update(n for n in node.all_input_nodes if n in after)
    return [n for n in layer.graph.nodes if n in before and n in after and n is not layer]
