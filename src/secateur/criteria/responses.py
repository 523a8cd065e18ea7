"""What the layers that use channels would still compute, split by channel; ThiNet, which chooses by that."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.criteria.base import GroupView, NotApplicable, criterion
from secateur.criteria.places import Place, places
from secateur.criteria.splitting import Drawn, Splitter, splitter
from secateur.criteria.statistics import NEEDS, Collecting, Need, Watcher
from secateur.graph.groups import Groups

__all__ = ["Consumer", "consumers", "greedy_order", "of_group", "ranks", "thinet"]

POSITIONS = 10
"""Sampled positions per sample, as in both papers."""

OUTPUTS = 8
"""Sampled output channels per position."""


class Consumer:
    """One layer that a group enters: the Gram matrix of its response, split by the group's units."""

    def __init__(self, place: Place, split: Splitter, units: int, seed: Sequence[int]) -> None:
        """Nothing was seen; ``seed`` is that of the responses that are looked at."""
        self.place, self.split = place, split
        self._sampler = np.random.default_rng(seed)
        self.gram = torch.zeros(units, units, dtype=torch.float64)

    def draw(self, value: Tensor) -> Drawn:
        """Which responses to a batch of the layer's input are looked at."""
        return self.split.draw(value, self._sampler, POSITIONS, OUTPUTS)

    def rows(self, value: Tensor, drawn: Drawn) -> Tensor:
        """The parts x̂ of one drawn response that come from each unit, shape (responses, units), float64."""
        parts = self.split.rows_at(value, drawn)
        own = torch.nonzero(self.place.index >= 0).ravel()
        index = self.place.index[own].to(parts.device)
        rows = torch.zeros(len(parts), len(self.gram), dtype=torch.float64, device=parts.device)
        return rows.index_add_(1, index, parts[:, own.to(parts.device)].double())

    def add(self, value: Tensor) -> None:
        """Adds x̂ᵀx̂ of drawn responses."""
        rows = self.rows(value, self.draw(value))
        self.gram += (rows.T @ rows).cpu()

    @property
    def scale(self) -> float:
        """What errors are relative to: Σ x̂²."""
        return float(self.gram.trace().clamp_min(torch.finfo(torch.float64).tiny))


def consumers(groups: Groups, seed: int) -> list[Consumer]:
    """Every layer that a group enters and whose response can be split by channel, once for each group."""
    found: list[Consumer] = []
    for split in filter(None, (splitter(groups.flow, n) for n in groups.flow.macs)):
        for place in places(groups, [split.source]):
            if place.dim == split.dim:
                found.append(Consumer(place, split, len(groups.items[place.group]), [seed, len(found)]))
    return found


def of_group(every: Sequence[Consumer], groups: Groups, number: int) -> list[Consumer]:
    """The layers that one group enters.

    Raises:
        NotApplicable: There is none.
    """
    found = [c for c in every if c.place.group == number]
    if not found:
        raise NotApplicable(
            f"the channels of {groups.items[number].name!r} enter no convolution or linear layer whose response can be "
            "split by channel"
        )
    return found


class _Responses(Watcher):
    """Adds up Gram matrices of sampled responses: n² numbers for each layer that n units enter."""

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        self._consumers = consumers(self.groups, setting.seed)
        self.nodes = [c.split.node for c in self._consumers]

    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        for consumer in self._consumers:
            if consumer.split.node is node:
                consumer.add(inputs[0])

    def of(self, number: int) -> NDArray[np.float64]:
        found = of_group(self._consumers, self.groups, number)
        return np.asarray(torch.stack([c.gram / c.scale for c in found]).mean(0).numpy())


NEEDS.add("responses", Need(_Responses, "inputs"))


def ranks(order: Sequence[int]) -> Tensor:
    """Scores in (0, 1] from the order in which units go: the first gets the lowest."""
    scores = torch.empty(len(order), dtype=torch.float64)
    scores[torch.as_tensor(order)] = torch.arange(1, len(order) + 1, dtype=torch.float64) / len(order)
    return scores


def greedy_order(gram: NDArray[np.float64]) -> list[int]:
    """The order in which ThiNet removes channels: next goes whichever keeps ‖Σ_{removed} x̂‖² smallest.

    Args:
        gram: Σ over responses of x̂ᵀx̂, shape (n, n).

    >>> greedy_order(np.array([[4.0, -3.9, 0.0], [-3.9, 4.0, 0.0], [0.0, 0.0, 3.0]]))
    [2, 0, 1]
    """
    left = np.ones(len(gram), dtype=bool)
    cross, total, order = np.zeros(len(gram)), 0.0, []
    for _ in range(len(gram)):
        error = np.where(left, total + 2 * cross + gram.diagonal(), np.inf)
        pick = int(error.argmin())
        total, cross, left[pick] = float(error[pick]), cross + gram[pick], False
        order.append(pick)
    return order


@criterion(
    "thinet",
    paper="Luo et al. 2017, ThiNet, arXiv:1707.06342, eq. 6, algorithm 1",
    needs=("responses",),
    order="those first whose loss changes the next response least (ThiNet)",
)
def thinet(view: GroupView) -> Tensor:
    """Greedy selection on the consumers' response: least ‖Σ removed‖² goes first.

    min over T of Σ_i (Σ_{c ∈ T} x̂_ic)², T the removed channels, x̂_ic the part of sampled response i that comes
    from channel c. Grown greedily from the empty set; the score is the place in the order of removal, in (0, 1].
    With several consumers their errors are added, each relative to Σ x̂².

    Raises:
        NotApplicable: No convolution or linear layer uses the channels.
    """
    return ranks(greedy_order(view.statistic("responses")))
