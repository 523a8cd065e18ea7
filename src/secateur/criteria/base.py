"""What a criterion sees of a group, and how one is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import Node

from secateur.graph.groups import Group, Groups
from secateur.registry import Registry
from secateur.types import Member

__all__ = ["CRITERIA", "Criterion", "GroupView", "criterion"]


@dataclass(frozen=True)
class GroupView:
    """A group with the numbers behind it.

    Attributes:
        group: The group.
        groups: All groups of the network.
        generator: Source of randomness for criteria that need one.
    """

    group: Group
    groups: Groups
    generator: torch.Generator

    def __len__(self) -> int:
        """Number of units n."""
        return len(self.group)

    @property
    def batch_norm_scales(self) -> frozenset[str]:
        """Names of the parameters that are the scale γ of a batch normalisation."""
        nodes = [n for n in self.groups.flow.traced.nodes if "batch_norm" in str(n.target)]
        return frozenset(str(n.args[1].target) for n in nodes if isinstance(n.args[1], Node))

    def weights(self, *, consumers: bool = True) -> Iterator[tuple[Member, Tensor]]:
        """Members that are trainable parameters (statistics are not weights)."""
        names = dict(self.groups.flow.traced.module.named_parameters(remove_duplicate=False))
        for member in self.group.members:
            if member.parameter in names and (consumers or not member.consumes):
                value = names[member.parameter].detach()
                value = value.abs() if value.is_complex() else value  # complex weights by their modulus
                yield member, value if value.dtype == torch.float64 else value.float()

    def index(self, member: Member) -> Tensor:
        """Position in the group (0…n−1) of every index of the member's dimension, −1 for other groups' units."""
        vector = self.groups.flow.tensors[member.parameter].at(member.dim)[0]
        unit = torch.from_numpy(self.groups.unit_of(vector))
        place = torch.full((self.groups.units + 1,), -1, dtype=torch.long)
        place[torch.from_numpy(self.group.units)] = torch.arange(len(self))
        return place[unit]

    def per_unit(self, member: Member, values: Tensor) -> Tensor:
        """Sums ``values`` (the member tensor's shape) to one number per unit, shape (n,)."""
        others = [d for d in range(values.ndim) if d != member.dim]
        return self._gathered(member, values.sum(others) if others else values)

    def norms(self, member: Member, weight: Tensor, order: float) -> Tensor:
        """Norm of a unit's slices to the power of ``order`` (the largest for infinity), shape (n,); no copies."""
        others = [d for d in range(weight.ndim) if d != member.dim]
        rows = torch.linalg.vector_norm(weight, order, others) if others else weight.abs()
        return (
            self._gathered(member, rows, largest=True) if order == float("inf") else self._gathered(member, rows**order)
        )

    def _gathered(self, member: Member, rows: Tensor, *, largest: bool = False) -> Tensor:
        """Adds up (or takes the largest of) the member's indices unit by unit."""
        index, rows = self.index(member), rows.cpu()
        own, start = index >= 0, torch.zeros(len(self), dtype=rows.dtype)
        if largest:
            return start.index_reduce(0, index[own], rows[own], "amax")
        return start.index_add(0, index[own], rows[own])


Score = Callable[[GroupView], Tensor]


@dataclass(frozen=True)
class Criterion:
    """A registered criterion.

    Attributes:
        name: What recipes and the command line call it.
        score: Function of the group's view; returns one score per unit, shape (n,), higher = keep.
        summary: One line for ``secateur criteria``.
        paper: Where it comes from.
    """

    name: str
    score: Score
    summary: str
    paper: str


CRITERIA: Registry[Criterion] = Registry("criterion")


def criterion(name: str, *, paper: str) -> Callable[[Score], Score]:
    """Registers a function as a criterion; its docstring's first line is the summary."""

    def decorate(score: Score) -> Score:
        summary = (score.__doc__ or "").strip().splitlines()[0]
        CRITERIA.add(name, Criterion(name, score, summary, paper))
        return score

    return decorate
