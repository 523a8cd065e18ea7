"""Values a few operators ahead of where a walk through a network stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.criteria.least_squares.walk import Values, Walker

__all__ = ["Ahead", "between"]


def between(source: Node, target: Node) -> list[Node]:
    """The operators on the ways from ``source`` to ``target``, in order; ``source`` itself is none of them."""
    after, before = {source}, {target}
    nodes = list(source.graph.nodes)
    for node in nodes:
        if any(n in after for n in node.all_input_nodes):
            after.add(node)
    for node in reversed(nodes):
        if node in before:
            before.update(node.all_input_nodes)
    return [n for n in nodes if n in after and n in before and n is not source]


class Ahead:
    """Computes what a network will compute next; the walk stays where it is, and its values as they are."""

    def __init__(self, walker: Walker, values: Values) -> None:
        """``values`` are those of the walk; they are not changed."""
        self._walker = walker
        self._known: Values = dict(values)

    def get(self, node: Node) -> Any:
        """The value of ``node``, computed from what the walk still holds.

        Raises:
            KeyError: The walk has gone past what it depends on.
        """
        if node.op == "get_attr":
            return self._walker.value(node, self._known)
        for needed in self._missing(node):
            self._known[needed] = self._walker.compute(needed, self._known)
        return self._known[node]

    def through(self, path: Sequence[Node], source: Node, value: Tensor) -> Tensor:
        """What the operators of ``path`` (see :func:`between`) make of ``value`` in the place of ``source``'s."""
        changed: Values = {source: value}
        for step in path:
            changed[step] = self._computed(step, changed)
        found: Tensor = changed[path[-1]] if path else value
        return found

    def _computed(self, node: Node, changed: Mapping[Node, Any]) -> Any:
        def value(n: Node) -> Any:
            return changed[n] if n in changed else self.get(n)

        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), value)
        return node.target(*args, **kwargs)  # type: ignore[operator]

    def _missing(self, node: Node) -> list[Node]:
        found: set[Node] = set()
        left = [node]
        while left:
            one = left.pop()
            if one in self._known or one in found or one.op == "get_attr":
                continue
            if one.op == "placeholder":
                raise KeyError(one.name)
            found.add(one)
            left += one.all_input_nodes
        return sorted(found, key=self._walker.place.__getitem__)
