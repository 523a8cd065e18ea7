"""Elements of lists of modules that can go as a whole: the list hands on what they get.

In an encoder that normalises after its sums, ``LayerNorm(x + f(x))``, an element is more than its branches: without
these a normalisation is left. The field drops such layers all the same; what is computed then is the network with the
identity in the place of the element.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.fx import Node

from secateur.graph.branches import Branch, Reach, through, weights_of
from secateur.graph.facts import Kind
from secateur.graph.flow import modules_of
from secateur.graph.rules import facts
from secateur.graph.traced import Traced

__all__ = ["AS_A_WHOLE", "Stages", "find_stages", "scores_of"]

AS_A_WHOLE = " as a whole"
"""What follows the name of an element in a plan; the names of its branches are those of modules, too."""


@dataclass(frozen=True)
class Stages:
    """Elements of lists that are called one after another, each of which takes and gives one tensor of one shape.

    Attributes:
        more: Those that are more than their residual branches, by name.
        plain: Those that hand on what they get when their branches are gone, in lists that mostly consist of such.
    """

    more: Mapping[str, Branch]
    plain: frozenset[str]


def find_stages(model: nn.Module, traced: Traced, branches: Sequence[Branch], live: Collection[Node]) -> Stages:
    """Finds the elements of lists that can go as a whole.

    An element takes what the one before it gives, beside what all of them take (a mask), and gives one tensor of the
    same shape and type.

    Args:
        model: The network.
        traced: Its trace.
        branches: Its residual branches.
        live: Operators that its results depend on.
    """
    lists = [(p, len(m)) for p, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) > 1]
    own: dict[str, list[Node]] = {f"{path}.{k}": [] for path, length in lists for k in range(length)}
    for node in traced.nodes:
        for path in set(modules_of(node)) & own.keys() if node.op == "call_function" else ():
            own[path].append(node)
    graph = Reach(traced)
    more, plain = dict[str, Branch](), set[str]()
    for path, length in lists:
        elements = [_Element(f"{path}.{k}", own[f"{path}.{k}"], live, branches) for k in range(length)]
        chained = [(e, start) for k, e in enumerate(elements) if (start := _start(elements, k)) is not None]
        alone = {e.path for e, start in chained if e.only_branches(start)}
        plain |= alone if len(alone) > 1 and 2 * len(alone) > length else set()
        stages = [_stage(e, start, graph) for e, start in chained if e.path not in alone]
        more |= {stage.element: stage for stage in stages if stage is not None}
    return Stages(more, frozenset(plain))


class _Element:
    """What one element of a list computes, takes and gives."""

    def __init__(self, path: str, nodes: Sequence[Node], live: Collection[Node], branches: Sequence[Branch]) -> None:
        self.path, self.nodes = path, nodes
        inside = set(nodes)
        takes = {n for node in nodes if node in live for n in node.all_input_nodes if n not in inside and _fed(n)}
        self.gives = [n for n in nodes if any(u in live and u not in inside for u in n.users) and _is_tensor(n)]
        self.end = self.gives[0] if len(self.gives) == 1 else None
        self.alike = [n for n in takes if self.end is not None and _signature(n) == _signature(self.end)]
        self.branches = [b for b in branches if b.add in inside]

    def only_branches(self, start: Node) -> bool:
        """Whether it hands on what it gets when its branches are gone."""
        free = {b.add: b.skip for b in self.branches if not b.reason}
        return self.end is not None and _source(self.end, free) is _source(start, {})


def _start(elements: Sequence[_Element], k: int) -> Node | None:
    """What an element takes and hands on changed; ``None`` where the list is not one after another there."""
    if elements[k].end is None:
        return None
    alike = elements[k].alike
    if k:
        given = [n for n in alike if n in elements[k - 1].gives]
    else:
        given = _as_after(elements) if elements[0].end in elements[1].alike else []
    return given[0] if len(given) == 1 else None


def _as_after(elements: Sequence[_Element]) -> list[Node]:
    """What the first element takes in the place in which the second one takes what the first gives."""
    first, second = elements[:2]
    if len(first.alike) == 1:
        return first.alike
    for one, other in zip(first.nodes, second.nodes, strict=False):
        if one.target != other.target or len(one.all_input_nodes) != len(other.all_input_nodes):
            return []
        for mine, theirs in zip(one.all_input_nodes, other.all_input_nodes, strict=True):
            if theirs is first.end:
                return [mine] if mine in first.alike else []
    return []


def _stage(element: _Element, start: Node, graph: Reach) -> Branch | None:
    """The element as what can be removed; ``None`` where it holds no layer."""
    parameters, layers = weights_of(graph, element.nodes)
    if not layers or element.end is None:
        return None
    return Branch(element.path + AS_A_WHOLE, layers, parameters, element.end, 0, tuple(element.nodes),
                  inside=tuple(b.name for b in element.branches), start=start, element=element.path)  # fmt: skip


def _source(node: Node, removed: Mapping[Node, Node]) -> Node:
    """Where a value comes from when sums are their skips; casts to the type that it has are no change."""
    while True:
        node = through(node, removed)
        first = node.args[0] if node.args else None
        same = facts(node).kind in (Kind.CAST, Kind.COPY) and isinstance(first, Node) and _is_tensor(first)
        if not same or not isinstance(first, Node) or _signature(first) != _signature(node):
            return node
        node = first


def _fed(node: Node) -> bool:
    return node.op != "get_attr" and _is_tensor(node)


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _signature(node: Node) -> tuple[Any, ...]:
    value = node.meta["val"]
    return tuple(value.shape), value.dtype


def scores_of(stages: Mapping[str, Branch], known: Mapping[str, float]) -> dict[str, float]:
    """Scores of elements: the sums of those of their branches; elements without any are left out."""
    sums = {s.name: [known[n] for n in s.inside if n in known] for s in stages.values()}
    return {name: sum(several) for name, several in sums.items() if several}
