"""What a rule that recomputes an operator's constants is handed: one node of the graph under the knife."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.graph.groups import Groups
from secateur.graph.labels import Labels
from secateur.graph.schema import arguments

__all__ = ["Rewriter", "Surgeon"]

Mask = NDArray[np.bool_]


class Surgeon(Protocol):
    """Who copies the dense graph node by node.

    Attributes:
        groups: The groups of the dense network.
        keep: Which labels stay.
        copies: Node of the dense graph → its copy.
        origins: The other way round.
    """

    groups: Groups
    keep: Mask
    copies: dict[Any, Any]
    origins: dict[Node, Node]

    def mapped(self, value: Any) -> Any:
        """An argument with nodes of the dense graph replaced by their copies."""
        ...

    def constant(self, tensor: Tensor) -> str:
        """Registers an index that belongs to the new graph alone, and gives its name."""
        ...


class Rewriter:
    """One node of the graph under the knife, for rules that recompute constants.

    Sizes and masks are those of the dense network's labels under the plan; nodes are the new graph's.
    """

    def __init__(self, surgeon: Surgeon, dense: Node, node: Node) -> None:
        """``dense`` is the node in the dense graph, ``node`` its copy that may be changed."""
        self._surgeon, self.dense, self.node = surgeon, dense, node
        self._names = [a.name for a in dense.target._schema.arguments]  # type: ignore[union-attr]
        self._values = arguments(dense)

    def __getitem__(self, name: str) -> Any:
        """Value of an argument in the dense graph (nodes are the dense graph's)."""
        return self._values[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Value of an argument or ``default``."""
        return self._values.get(name, default)

    def node_of(self, name: str) -> Node:
        """The node that an argument comes from, in the new graph."""
        found = self._surgeon.copies[self._values[name]]
        assert isinstance(found, Node)
        return found

    def copy(self, dense: Node) -> Node:
        """The new graph's copy of a node of the dense graph."""
        found = self._surgeon.copies[dense]
        assert isinstance(found, Node)
        return found

    def labels(self, node: Node) -> Any:
        """Labels of a node of the new graph."""
        return self._surgeon.groups.flow.labels[self._surgeon.origins[node]]

    def mask(self, node: Node, dim: int) -> Mask:
        """Kept entries of a dimension, shape (size,)."""
        labels = self.labels(node)
        found = self._surgeon.groups.masks(labels, self._surgeon.keep).get(dim)
        return np.ones(labels.shape[dim], dtype=bool) if found is None else found

    def changes(self, node: Node, dim: int) -> bool:
        """Whether a dimension loses entries."""
        return not self.mask(node, dim).all()

    def kept(self, labels: Labels, dim: int) -> int:
        """Size of a labelled dimension after the cut."""
        mask = self._surgeon.groups.masks(labels, self._surgeon.keep).get(dim)
        return labels.shape[dim] if mask is None else int(mask.sum())

    def new_size(self, node: Node, dim: int) -> int:
        """Size of a dimension of a node after the cut."""
        return int(self.mask(node, dim).sum())

    def before(self, node: Node, dim: int, index: int) -> int:
        """How many entries before ``index`` stay: where it moves to."""
        return int(self.mask(node, dim)[:index].sum())

    def sizes(self, sizes: Sequence[Any], offset: int = 0, count: int | None = None) -> list[Any]:
        """Sizes of the output replaced by those after the cut; −1 stays, free sizes (batch × heads) are scaled."""
        labels: Labels = self.labels(self.node)
        masks = self._surgeon.groups.masks(labels, self._surgeon.keep)
        first = offset if count is not None else labels.ndim - len(sizes)
        return [self._size(s, masks.get(first + k)) for k, s in enumerate(self._surgeon.mapped(sizes))]

    def _size(self, size: Any, mask: Mask | None) -> Any:
        if mask is None or (isinstance(size, int) and size == -1):
            return size
        kept = int(mask.sum())
        if isinstance(size, int):
            return kept
        with self.node.graph.inserting_before(self.node):
            scaled = self.node.graph.call_function(operator.mul, (size, kept))
            return self.node.graph.call_function(operator.floordiv, (scaled, len(mask)))

    def set(self, name: str, value: Any) -> None:
        """Replaces an argument, wherever it stands."""
        position = self._names.index(name)
        if position < len(self.node.args):
            self.node.update_arg(position, value)
        else:
            self.node.update_kwarg(name, value)

    def select(self, source: Node, dim: int, dense_indices: Sequence[int]) -> None:
        """Turns the node into a selection of those of ``dense_indices`` that stay."""
        mask = self.mask(source, dim)
        places = np.cumsum(mask) - 1
        chosen = [int(places[i]) for i in dense_indices if mask[i]]
        name = self._surgeon.constant(torch.tensor(chosen, dtype=torch.long))
        with self.node.graph.inserting_before(self.node):
            index = self.node.graph.get_attr(name)
        self.node.target = torch.ops.aten.index_select.default
        self.node.args, self.node.kwargs = (source, dim, index), {}
