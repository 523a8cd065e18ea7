"""Residual branches: which additions of a traced network have a skip, and what lies beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

from torch import Tensor
from torch.fx import Node

from secateur.graph.facts import Kind
from secateur.graph.rules import facts
from secateur.graph.traced import Traced

__all__ = ["Branch", "Reach", "common_module", "find_branches", "through", "weights_of"]


@dataclass(frozen=True)
class Branch:
    """One residual branch: ``add = skip + branch(skip)``, or an addition that only looks like one.

    Attributes:
        name: The smallest module that holds its weight-bearing layers; the last of these where several branches
            share that module. Made of parameter names alone, so it is the same for a module and for its graph.
        layers: Its weight-bearing layers in the order of execution.
        parameters: All its parameters and buffers, in that order.
        add: The addition.
        side: Which operand of the addition is the branch (0 or 1).
        nodes: What is computed between the skip and the addition.
        reason: Why it cannot be removed; empty where it can.
        inside: Names of the branches that lie inside it.
        start: Of an element of a list that goes as a whole, what it takes; ``add`` is what it gives then.
        element: Its name.
    """

    name: str
    layers: tuple[str, ...]
    parameters: tuple[str, ...]
    add: Node
    side: int
    nodes: tuple[Node, ...]
    reason: str = ""
    inside: tuple[str, ...] = ()
    start: Node | None = None
    element: str = ""

    @property
    def skip(self) -> Node:
        """The operand that stays: what stands for the sum when the branch is gone."""
        if self.start is not None:
            return self.start
        found = self.add.args[1 - self.side]
        assert isinstance(found, Node)
        return found


def find_branches(traced: Traced) -> tuple[Branch, ...]:
    """Finds every addition of a network in which one operand comes from the other through layers.

    An operand is the branch when the other one, the skip, is among what it is computed from. In a longer sum
    (``x + attention(x) + mlp(x)``) any other term may be that skip. Additions whose two operands both carry layers,
    or whose shortcut changes the shape, are listed too, with the reason why they cannot be removed: no identity
    would be left.

    Returns:
        The branches in the order of execution; those without any weight are no layers and are left out.
    """
    graph = Reach(traced)
    found = [b for node in traced.nodes if (b := _branch(graph, node)) is not None]
    return tuple(_named(found))


def through(node: Node, removed: Mapping[Node, Node]) -> Node:
    """What stands for a node: for a removed addition its skip, which may be a removed addition itself."""
    while node in removed:
        node = removed[node]
    return node


class Reach:
    """Which tensors every tensor of a graph is computed from, as bit sets."""

    def __init__(self, traced: Traced) -> None:
        """Goes through the graph once."""
        self.nodes = traced.nodes
        self.bit = {node: 1 << k for k, node in enumerate(self.nodes)}
        self.weights = {n: p for n, p in traced.module.named_parameters(remove_duplicate=False) if p.ndim > 1}
        self.parameters = {n for n, _ in traced.module.named_parameters(remove_duplicate=False)}
        self.sources: dict[Node, int] = {}
        fed = 0
        for node in self.nodes:
            before = 0
            for source in node.all_input_nodes if _holds_tensors(node) else ():
                before |= self.sources[source]
            self.sources[node] = before | self.bit[node] if _holds_tensors(node) else 0
            fed |= self.bit[node] if node.op == "placeholder" else 0
        self.fed = fed

    def uses(self, node: Node, source: Node) -> bool:
        """Whether ``node`` is computed from ``source``."""
        return bool(self.sources[node] & self.bit[source])

    def from_inputs(self, node: Node) -> bool:
        """Whether ``node`` depends on what the network is given."""
        return bool(self.sources[node] & self.fed)

    def behind(self, node: Node, inside: Collection[Node]) -> tuple[str, ...]:
        """Name of the tensor that an operand is, or of the parameters that it is computed from (rounded first, say).

        Nothing for one that depends on what the network is given, nor for tensors that others than ``inside`` need.
        """
        if node.op == "get_attr":
            return (str(node.target),)
        if not self.sources[node] or self.from_inputs(node) or not self._only_for(node, inside):
            return ()
        found = (n for n in self.nodes if n.op == "get_attr" and n.target in self.parameters and self.uses(node, n))
        return tuple(str(n.target) for n in found if self._only_for(n, inside))

    def _only_for(self, node: Node, inside: Collection[Node]) -> bool:
        return all(u in inside or (not self.from_inputs(u) and self._only_for(u, inside)) for u in node.users)

    def between(self, skip: Node, end: Node) -> tuple[Node, ...]:
        """What is computed from ``skip`` on the way to ``end``."""
        inner = self.sources[end]
        return tuple(n for n in self.nodes if inner & self.bit[n] and n is not skip and self.uses(n, skip))

    def beside(self, node: Node, other: Node) -> tuple[Node, ...]:
        """What ``node`` is computed from and ``other`` is not."""
        only = self.sources[node] & ~self.sources[other]
        return tuple(n for n in self.nodes if only & self.bit[n] and n.op == "call_function")


def _holds_tensors(node: Node) -> bool:
    """Whether a node stands for tensors, not for a size (which links what has nothing to do with each other)."""
    value = node.meta.get("val")
    return node.op == "get_attr" or isinstance(value, (Tensor, list, tuple))


def _branch(graph: Reach, add: Node) -> Branch | None:
    if facts(add).kind is not Kind.ADD or len(add.args) != 2 or add.kwargs:
        return None
    left, right = add.args
    if not isinstance(left, Node) or not isinstance(right, Node) or not _alike(add, left, right):
        return None
    if not (graph.from_inputs(left) and graph.from_inputs(right)):
        return None  # a bias or a table that is added
    for side, (branch, skip) in enumerate(((left, right), (right, left))):
        start = next((t for t in _terms(skip) if t is not branch and graph.uses(branch, t)), None)
        if start is not None and not graph.uses(skip, branch):
            return _made(graph, add, side, graph.between(start, branch))
    return _shortcut(graph, add)


def _alike(add: Node, left: Node, right: Node) -> bool:
    """Whether nothing is broadcast: a skip stands for the sum only where the shapes agree."""
    shapes = [tuple(n.meta["val"].shape) for n in (add, left, right) if isinstance(n.meta.get("val"), Tensor)]
    return len(shapes) == 3 and shapes[0] == shapes[1] == shapes[2]


def _terms(node: Node) -> Iterator[Node]:
    """The node, and the terms of a longer sum where it is one (used by nobody but the next addition)."""
    yield node
    if facts(node).kind is Kind.ADD and len(node.users) == 1:
        for term in node.args[:2]:
            if isinstance(term, Node):
                yield from _terms(term)


def _made(graph: Reach, add: Node, side: int, nodes: tuple[Node, ...]) -> Branch | None:
    parameters, layers = weights_of(graph, nodes)
    if not layers:
        return None
    reason = ""
    inner = {*nodes, add}
    outside = [user for node in nodes for user in node.users if user not in inner and _holds_tensors(user)]
    if outside or any(user.op == "output" for node in nodes for user in node.users):
        reason = "what it computes inside is also used elsewhere, so its layers would have to stay"
    return Branch("", layers, parameters, add, side, nodes, reason)


def _shortcut(graph: Reach, add: Node) -> Branch | None:
    """An addition without identity: a projection, or a shortcut that changes the shape."""
    sides = [graph.beside(add.args[k], add.args[1 - k]) for k in (0, 1)]  # type: ignore[arg-type]
    layers = [weights_of(graph, nodes)[1] for nodes in sides]
    side = 0 if len(layers[0]) >= len(layers[1]) else 1
    if not layers[side]:
        return None
    if layers[1 - side]:
        reason = f"its shortcut is a projection ({', '.join(layers[1 - side])}), not the identity"
    else:
        through = ", ".join(dict.fromkeys(str(n.target).split(".")[1] for n in sides[1 - side]))
        reason = f"its shortcut changes the values ({through}), so it is not the identity"
    parameters, own = weights_of(graph, sides[side])
    return Branch("", own, parameters, add, side, sides[side], reason)


def weights_of(graph: Reach, nodes: Sequence[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of all parameters and buffers, and of the modules that hold the matrices and kernels among them."""
    inside = set(nodes)
    names = dict.fromkeys(name for n in nodes for s in n.all_input_nodes for name in graph.behind(s, inside))
    layers = dict.fromkeys(name.rpartition(".")[0] or name for name in names if name in graph.weights)
    return tuple(names), tuple(layers)


# ------------------------------------------------------------------------------------------------------- names


def _named(branches: Sequence[Branch]) -> Iterator[Branch]:
    """Gives every branch its name, and the names of the branches inside it."""
    shared = [common_module(b.layers) for b in branches]
    count = Counter(shared)
    names = [b.layers[-1] if not name or count[name] > 1 else name for b, name in zip(branches, shared, strict=True)]
    seen: Counter[str] = Counter()
    for k, name in enumerate(names):
        seen[name] += 1
        names[k] = name if seen[name] == 1 else f"{name}#{seen[name]}"  # one module that is called several times
    of = {b.add: name for b, name in zip(branches, names, strict=True)}
    for branch, name in zip(branches, names, strict=True):
        yield replace(branch, name=name, inside=tuple(of[n] for n in branch.nodes if n in of))


def common_module(layers: Sequence[str]) -> str:
    """The smallest module that contains all ``layers``; one layer is its own.

    >>> common_module(["layer1.0.conv1", "layer1.0.conv2"])
    'layer1.0'
    """
    parts = [layer.split(".") for layer in layers]
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return ".".join(column[0] for column in shared)
