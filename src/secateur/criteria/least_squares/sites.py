"""Where a network can be repaired: the consumers, what follows them, and what their targets are."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf

from torch import Tensor
from torch.fx import GraphModule, Node

from secateur.graph.flow import Flow, module_of
from secateur.graph.ops import Bounds, Kind, arguments, bounds, facts

__all__ = ["Norm", "Site", "norms", "sites", "uses_of"]

_FITTED = (Kind.CONV, Kind.CONV_TRANSPOSE, Kind.LINEAR)


@dataclass(frozen=True)
class Norm:
    """A batch normalisation with statistics.

    Attributes:
        node: Its call in the dense graph.
        weight: Name of γ, or ``None``.
        bias: Name of β, or ``None``.
        mean: Name of the running mean.
        var: Name of the running variance.
        eps: Added to the variance.
    """

    node: Node
    weight: str | None
    bias: str | None
    mean: str
    var: str
    eps: float


@dataclass(frozen=True)
class Site:
    """A convolution or linear layer that can be refitted.

    Attributes:
        node: Its call in the dense graph.
        weight: Name of its weight.
        bias: Name of its bias, or ``None``.
        norm: The batch normalisation that alone follows it, fitted with it as one affine map.
        end: Whose dense output is the target: the layer, its norm, or the sum of a residual connection.
        skip: The other summand, computed before the layer; the pruned network's value is subtracted.
        seen: Between which values of ``end`` alone what follows depends on it: (0, ∞) before a ReLU, (0, 6) before a
            ReLU6; ``None`` where all of them count.
    """

    node: Node
    weight: str
    bias: str | None
    norm: Norm | None
    end: Node
    skip: Node | None
    seen: Bounds | None

    @property
    def name(self) -> str:
        """Dotted name of the layer."""
        return self.weight.rpartition(".")[0] or module_of(self.node) or self.weight


def sites(flow: Flow) -> list[Site]:
    """Every layer that can be refitted, in the order of execution.

    Left out are layers whose weight is computed, used twice or shared: there is nothing to write a fit into.
    """
    graph = flow.traced.module
    place = {n: k for k, n in enumerate(graph.graph.nodes)}
    uses = uses_of(graph)
    found = []
    for node in flow.macs:
        if facts(node).kind in _FITTED and _own(graph, arguments(node)["weight"], uses):
            found.append(_site(graph, node, uses, place))
    return [_closed(site, found, place) for site in found if site is not None]


def _site(graph: GraphModule, node: Node, uses: Counter[int], place: dict[Node, int]) -> Site | None:
    call = arguments(node)
    bias = call.get("bias")
    if bias is not None and not _own(graph, bias, uses):
        return None
    norm = _norm_after(graph, node, uses)
    end, skip = _chain(norm.node if norm else node, place[node], place)
    name = None if bias is None else str(bias.target)
    return Site(node, str(call["weight"].target), name, norm, end, skip, _seen(end))


def _closed(site: Site, every: list[Site | None], place: dict[Node, int]) -> Site:
    """The sum is a target only if no other layer is fitted between the layer and the sum."""
    between = range(place[site.node] + 1, place[site.end])
    if site.skip is None or not any(s is not None and place[s.node] in between for s in every):
        return site
    end = site.norm.node if site.norm else site.node
    return replace(site, end=end, skip=None, seen=_seen(end))


def _seen(end: Node) -> Bounds | None:
    """The widest range of those that the users see."""
    found = [bounds(user) for user in end.users]
    known = [b for b in found if b is not None]
    if not known or len(known) < len(found):
        return None
    widest = min(low for low, _ in known), max(high for _, high in known)
    return None if widest == (-inf, inf) else widest


def _chain(node: Node, start: int, place: dict[Node, int]) -> tuple[Node, Node | None]:
    """Follows the only user to a sum whose other summand exists already when the layer is computed."""
    first = node
    while len(node.users) == 1:
        (user,) = node.users
        if facts(user).same_entries and _same_shape(node, user):
            node = user
            continue
        if facts(user).kind is not Kind.ADD or user.kwargs.get("alpha", 1) != 1:
            break
        others = [a for a in user.args[:2] if a is not node]
        if len(others) != 1 or not isinstance(others[0], Node) or others[0].op == "get_attr":
            break
        return (user, others[0]) if place[others[0]] < start and _same_shape(node, others[0]) else (first, None)
    return first, None


def _same_shape(one: Node, other: Node) -> bool:
    a, b = one.meta.get("val"), other.meta.get("val")
    return isinstance(a, Tensor) and isinstance(b, Tensor) and a.ndim == b.ndim and tuple(a.shape) == tuple(b.shape)


def norms(flow: Flow) -> list[Norm]:
    """Every batch normalisation with running statistics of its own, in the order of execution."""
    graph = flow.traced.module
    uses = uses_of(graph)
    return list(_norms(graph, uses, graph.graph.nodes))


def _norms(graph: GraphModule, uses: Counter[int], nodes: object) -> Iterator[Norm]:
    for node in nodes:  # type: ignore[attr-defined]
        if facts(node).kind is not Kind.BATCH_NORM:
            continue
        call = arguments(node)
        tensors = [call[k] for k in ("running_mean", "running_var", "weight", "bias")]
        if all(t is None or _own(graph, t, uses) for t in tensors) and all(t is not None for t in tensors[:2]):
            mean, var, weight, bias = (None if t is None else str(t.target) for t in tensors)
            assert mean is not None
            assert var is not None
            yield Norm(node, weight, bias, mean, var, float(call["eps"]))


def _norm_after(graph: GraphModule, node: Node, uses: Counter[int]) -> Norm | None:
    users = list(node.users)
    if len(users) != 1 or facts(users[0]).kind is not Kind.BATCH_NORM or users[0].args[0] is not node:
        return None
    found = list(_norms(graph, uses, users))
    return found[0] if found and found[0].weight is not None and found[0].bias is not None else None


def uses_of(graph: GraphModule) -> Counter[int]:
    """How many operators take every tensor, whatever names it has."""
    return Counter(
        id(operator.attrgetter(str(n.target))(graph)) for n in graph.graph.nodes if n.op == "get_attr" for _ in n.users
    )


def _own(graph: GraphModule, node: object, uses: Counter[int]) -> bool:
    """Whether ``node`` is a floating tensor of the network that one operator alone takes."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return False
    tensor = operator.attrgetter(str(node.target))(graph)
    return isinstance(tensor, Tensor) and tensor.is_floating_point() and uses[id(tensor)] == 1
