"""Graphs run piece by piece over many batches, in memory that does not grow with their number."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from secateur.criteria.least_squares.shelf import Shelf
from secateur.graph.writes import written

__all__ = ["Store", "Values", "Walker"]

Values = dict[Node, Any]
"""What the operators so far gave and later ones need."""


class Walker:
    """Runs a flat graph from one operator to another; values that nobody needs any more are dropped."""

    def __init__(self, module: GraphModule) -> None:
        """Finds the last use of every value."""
        self.module = module
        self.nodes: list[Node] = list(module.graph.nodes)
        self.place = {node: k for k, node in enumerate(self.nodes)}
        self._own: dict[str, Tensor] = {}
        self._last = {n: max((self.place[u] for u in n.users), default=k) for k, n in enumerate(self.nodes)}

    def begin(self, batch: Any) -> Values:
        """Values of the inputs; they are copied, because a network may write into them."""
        self._own = written(self.module)  # a network that changes itself changes copies here
        leaves = [v.clone() if isinstance(v, Tensor) else v for v in pytree.tree_leaves(batch)]
        places = [n for n in self.nodes if n.op == "placeholder"]
        return dict(zip(places, leaves, strict=True))

    def advance(self, values: Values, start: int, stop: int) -> None:
        """Runs the operators ``start`` … ``stop − 1`` on ``values``, in place."""
        for k in range(start, stop):
            node = self.nodes[k]
            if node.op in ("call_function", "call_module"):
                values[node] = self.compute(node, values)
            for used in (node, *node.all_input_nodes):
                if self._last[used] <= k and used in values:
                    del values[used]

    def compute(self, node: Node, values: Values) -> Any:
        """What one operator gives."""
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: self.value(n, values))
        target: Any = self.module.get_submodule(str(node.target)) if node.op == "call_module" else node.target
        return target(*args, **kwargs)

    def value(self, node: Node, values: Values) -> Any:
        """A weight of the network, or what an operator gave."""
        if node.op != "get_attr":
            return values[node]
        name = str(node.target)
        return self._own[name] if name in self._own else operator.attrgetter(name)(self.module)

    def output(self, values: Values) -> list[Tensor]:
        """The tensors that the network returns, once everything before has run."""
        found = torch.fx.node.map_arg(self.nodes[-1].args, lambda n: self.value(n, values))
        return [v for v in pytree.tree_leaves(found) if isinstance(v, Tensor)]


class Store:
    """Values of every batch between two stops, on a shelf."""

    def __init__(self, walkers: Sequence[Walker], shelf: Shelf) -> None:
        """``walkers`` are the graphs whose values are kept side by side."""
        self._shelf, self._count = shelf, 0
        self._names = [{n.name: n for n in w.nodes} for w in walkers]

    def add(self, values: list[Values]) -> None:
        """Appends a batch."""
        self._count += 1
        self.put(self._count - 1, values)

    def __len__(self) -> int:
        """Number of batches."""
        return self._count

    def get(self, index: int) -> list[Values]:
        """The values of a batch."""
        kept = self._shelf.get(("batch", index))
        return [{names[k]: v for k, v in part.items()} for names, part in zip(self._names, kept, strict=True)]

    def take(self, index: int) -> list[Values]:
        """The values of a batch, which are put back later."""
        values = self.get(index)
        self._shelf.drop(("batch", index))
        return values

    def put(self, index: int, values: list[Values]) -> None:
        """Replaces the values of a batch."""
        self._shelf.put(("batch", index), [{n.name: v for n, v in part.items()} for part in values])

    def __iter__(self) -> Iterator[list[Values]]:
        """The batches in order."""
        return (self.get(k) for k in range(len(self)))

    def close(self) -> None:
        """Forgets the batches."""
        for index in range(self._count):
            self._shelf.drop(("batch", index))
        self._count = 0
