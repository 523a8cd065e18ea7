"""Where the units of a group sit in the values that flow through the network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from secateur.graph.facts import Kind
from secateur.graph.flow import Flow
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels, Vector
from secateur.graph.rules import facts

__all__ = ["Place", "activations", "maps", "places", "producers", "zero_makers"]


@dataclass(frozen=True)
class Place:
    """A dimension of a value along which units of one group lie.

    Attributes:
        group: Number of the group.
        node: Operator that gives the value.
        dim: The dimension.
        index: Position in the group (0…n−1) of every entry of the dimension, −1 for other entries.
    """

    group: int
    node: Node
    dim: int
    index: Tensor

    def rows(self, value: Tensor) -> Tensor:
        """The value as (entries of the dimension, everything else)."""
        rows = value.detach().movedim(self.dim, 0).flatten(1)
        return rows if rows.dtype == torch.float64 else rows.float()

    def columns(self) -> tuple[Tensor, Tensor]:
        """The units that are there, (m,), and the entries of each, (m, k).

        A unit with fewer entries than another (a channel that met others in a shuffle) repeats its own.
        """
        own = torch.nonzero(self.index >= 0).ravel()
        units, counts = torch.unique(self.index[own], return_counts=True)
        order = own[torch.argsort(self.index[own], stable=True)]
        turn = torch.arange(int(counts.max())).unsqueeze(0) % counts.unsqueeze(1)
        return units, order[(counts.cumsum(0) - counts).unsqueeze(1) + turn]


def places(groups: Groups, nodes: Iterable[Node]) -> list[Place]:
    """Finds the units of every group in the values of ``nodes``."""
    group_of, position = _table(groups)
    found = []
    for node in nodes:
        labels = groups.flow.labels.get(node)
        for dim, vectors in labels.dims.items() if isinstance(labels, Labels) else ():
            for number, index in _along(groups, vectors, group_of, position):
                found.append(Place(number, node, dim, index))
    return found


def _table(groups: Groups) -> tuple[Vector, Vector]:
    """Group of every unit and its position there; the last entry stands for no unit."""
    group_of, position = (np.full(groups.units + 1, -1, dtype=np.int64) for _ in range(2))
    for number, group in enumerate(groups.items):
        group_of[group.units], position[group.units] = number, np.arange(len(group))
    return group_of, position


def _along(groups: Groups, vectors: tuple[Vector, ...], group_of: Vector, position: Vector) -> list[tuple[int, Tensor]]:
    """Groups along one dimension; of several label vectors (heads × size) each may hold one."""
    found: dict[int, Tensor] = {}
    for vector in vectors:
        unit = groups.unit_of(vector)
        for number in np.unique(group_of[unit][unit >= 0]).tolist():
            found.setdefault(number, torch.from_numpy(np.where(group_of[unit] == number, position[unit], -1)))
    return list(found.items())


# ------------------------------------------------------------------------------------------------------ operators


def zero_makers(flow: Flow) -> list[Node]:
    """Operators after which many values are exactly zero: ReLU and its relatives. Gates are no feature maps."""
    return [n for n in flow.traced.nodes if (f := facts(n)).makes_zeros and not f.gate]


def activations(flow: Flow) -> list[Node]:
    """Activation functions, those that make zeros and those that do not; gates are left out."""
    known = [(n, facts(n)) for n in flow.traced.nodes]
    return [n for n, f in known if (f.kind is Kind.ACTIVATION or f.makes_zeros) and not f.gate]


def producers(groups: Groups, number: int) -> list[Node]:
    """Outputs of the layers that produce a group's units, behind their batch normalisation if they have one."""
    made = {m.parameter for m in groups.items[number].members if not m.consumes}
    layers = [
        n for n in groups.flow.macs if any(str(s.target) in made for s in n.all_input_nodes if s.op == "get_attr")
    ]
    return [_normalised(n) for n in layers]


def _normalised(node: Node) -> Node:
    users = list(node.users)
    return users[0] if len(users) == 1 and facts(users[0]).kind is Kind.BATCH_NORM else node


def maps(groups: Groups) -> list[Place]:
    """Where the feature maps of every group are: behind activation functions, else where they are produced."""
    found = places(groups, activations(groups.flow))
    have: set[Any] = {p.group for p in found}
    for number in range(len(groups.items)):
        if number not in have:
            found += [p for p in places(groups, producers(groups, number)) if p.group == number]
    return found
