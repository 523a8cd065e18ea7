"""Criteria of what a unit adds to the layers that use it: its activations on calibration data times their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.criteria.base import GroupView, NotApplicable, criterion
from secateur.criteria.places import Place, places, producers
from secateur.criteria.statistics import NEEDS, Collecting, Need, Watcher
from secateur.graph.facts import Kind
from secateur.graph.flow import Flow
from secateur.graph.ops import arguments, facts

__all__ = ["Activity", "flap", "wanda"]


@dataclass(frozen=True)
class Activity:
    """Moments of one group's activations, over samples and positions.

    Attributes:
        entering: Mean and mean square of what enters each layer that uses the group, by the name of its weight, each
            of shape (entries of the contracted dimension,).
        made: Mean square of what the layers give that make the group, each summed by unit, shape (n,).
    """

    entering: dict[str, tuple[Tensor, Tensor]]
    made: list[Tensor]


class _Sums:
    """Sums over all but one dimension; float64."""

    def __init__(self) -> None:
        self.count = 0
        self.first: Tensor | None = None
        self.second: Tensor | None = None

    def add(self, value: Tensor, dim: int) -> None:
        rows = value.detach().movedim(dim, -1).flatten(0, -2)
        rows = rows if rows.dtype == torch.float64 else rows.float()
        first, second = rows.sum(0).double().cpu(), rows.square().sum(0).double().cpu()
        self.count += len(rows)
        self.first = first if self.first is None else self.first + first
        self.second = second if self.second is None else self.second + second

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and mean square."""
        assert self.first is not None
        assert self.second is not None
        return self.first / self.count, self.second / self.count


class _Activities(Watcher):
    """Adds up x and x² of what enters the layers behind every group, and of what makes it: two numbers an entry."""

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        groups = self.groups
        self._users = _users(groups.flow)
        numbers = range(len(groups.items))
        self._made = [p for g in numbers for p in places(groups, producers(groups, g)) if p.group == g]
        self._entering = {node: _Sums() for node in self._users}
        self._given = {place: _Sums() for place in self._made}
        self.nodes = [*self._users, *(p.node for p in self._made)]

    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        if node in self._users and isinstance(inputs[0], Tensor):
            self._entering[node].add(inputs[0], -1 if facts(node).kind is Kind.LINEAR else 1)
        for place in self._made:
            if place.node is node:
                self._given[place].add(value, place.dim)

    def of(self, number: int) -> Activity:
        group = self.groups.items[number]
        used = {m.parameter for m in group.members if m.consumes}
        entering = {
            name: self._entering[node].moments()
            for node, name in self._users.items()
            if name in used and self._entering[node].count
        }
        own = [p for p in self._made if p.group == number and self._given[p].count]
        made = [_by_unit(p, self._given[p].moments()[1], len(group)) for p in own]
        if not entering and not made:
            raise NotApplicable(f"no layer whose input is seen uses the channels of {group.name!r}")
        return Activity(entering, made)


def _users(flow: Flow) -> dict[Node, str]:
    """Linear layers and ungrouped convolutions, with the name of their weight."""
    found = {}
    for node in flow.macs:
        call, kind = arguments(node), facts(node).kind
        mixes = kind is Kind.LINEAR or (kind is Kind.CONV and call["groups"] == 1)
        if mixes and isinstance(call["weight"], Node) and call["weight"].op == "get_attr":
            found[node] = str(call["weight"].target)
    return found


def _by_unit(place: Place, values: Tensor, count: int) -> Tensor:
    own = place.index >= 0
    return torch.zeros(count, dtype=values.dtype).index_add(0, place.index[own], values[own])


NEEDS.add("activity", Need(_Activities, "inputs"))


def _contribution(view: GroupView, *, around_mean: bool) -> Tensor:
    """Σ over the layers that use the group of (mean square, or variance, of what enters) · ‖W_:j‖², by unit."""
    found: Activity = view.statistic("activity")
    total = torch.zeros(len(view), dtype=torch.float64)
    weights = [(m, w) for m, w in view.weights() if m.consumes and m.parameter in found.entering]
    for member, weight in weights:
        mean, square = found.entering[member.parameter]
        size = (square - mean**2).clamp_min(0) if around_mean else square
        shape = [1] * weight.ndim
        shape[member.dim] = len(size)
        total += view.per_unit(member, weight.double().square() * size.to(weight.device).reshape(shape))
    if weights:
        return total
    # Positions within queries and keys: they meet in a product, and no weights of a layer use them.
    product = torch.ones(len(view), dtype=torch.float64)
    for made in found.made:
        product *= made
    return product


@criterion(
    "wanda",
    paper="Sun et al. 2024, A Simple and Effective Pruning Approach for LLMs (Wanda), arXiv:2306.11695, eq. 1",
    needs=("activity",),
    order="those first that add least to the layers behind on the calibration data",
)
def wanda(view: GroupView) -> Tensor:
    """How much the unit adds to the layers that use it on calibration data: Σ E[x_j²]·‖W_:j‖².

    The sum is over the layers and the unit's entries j (a head has as many as its size); W_:j are the weights through
    which entry j enters. Formula: Wanda's score of a weight, |W_ij|·‖x_j‖₂, squared and summed over the outputs i: the
    mean square that the layer's output loses when x_j is gone, but for what it shares with other inputs. Where no layer
    uses the units themselves (positions within queries and keys, which meet in a product): Π over the layers that make
    them of Σ E[y²].

    Units with massive activations (Sun et al. 2024, arXiv:2402.17762) have high scores, however small their weights.

    Raises:
        NotApplicable: No linear layer or convolution uses or makes the group.
    """
    return _contribution(view, around_mean=False)


@criterion(
    "flap",
    paper="An et al. 2024, Fluctuation-based Adaptive Structured Pruning for LLMs (FLAP), arXiv:2312.11983, eq. 5",
    needs=("activity",),
    order="those first whose part in the layers behind varies least on the calibration data",
)
def flap(view: GroupView) -> Tensor:
    """How much the unit's part in the layers behind varies on calibration data: Σ Var[x_j]·‖W_:j‖².

    The sum is as in :func:`wanda`. What stays the same can be made good by a bias: use it with
    :func:`secateur.recover` (``method="bias"`` where the layers have biases, or ``least_squares``); without a repair
    ``wanda`` loses less.

    Raises:
        NotApplicable: No linear layer or convolution uses or makes the group.
    """
    return _contribution(view, around_mean=True)
