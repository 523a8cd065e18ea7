"""Activation criteria: how often and how strongly a unit fires on calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from secateur.criteria.base import GroupView, NotApplicable, criterion
from secateur.criteria.places import Place, maps, zero_makers
from secateur.criteria.statistics import NEEDS, Collecting, Need, Watcher

__all__ = ["Activations", "apoz", "mean_activation", "variance"]


@dataclass(frozen=True)
class Activations:
    """How a group's units fire.

    Attributes:
        zeros: Share of exact zeros behind ReLU and its relatives, shape (n,); ``None`` where none follows.
        mean: Mean of |a|, shape (n,).
        variance: Variance of a over samples and positions, shape (n,).
    """

    zeros: Tensor | None
    mean: Tensor
    variance: Tensor


class _Activations(Watcher):
    """Counts zeros and adds up |a|, a and a² per unit and operator: five numbers for each."""

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        self._making = set(zero_makers(self.groups.flow))
        self._places = maps(self.groups)
        self._sums = {p: torch.zeros(5, len(self.groups.items[p.group]), dtype=torch.float64) for p in self._places}
        self.nodes = [p.node for p in self._places]

    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        for place in self._places:
            if place.node is node:
                self._add(place, place.rows(value))

    def _add(self, place: Place, rows: Tensor) -> None:
        seen = torch.full((len(rows),), float(rows.shape[1]), dtype=torch.float64)
        sums = [(rows == 0).sum(1), rows.abs().sum(1), rows.sum(1), rows.square().sum(1)]
        numbers = torch.stack([*(s.double().cpu() for s in sums), seen])
        own = place.index >= 0
        self._sums[place].index_add_(1, place.index[own], numbers[:, own])

    def of(self, number: int) -> Activations:
        sums = {p: s for p, s in self._sums.items() if p.group == number}
        if not sums:
            raise NotApplicable(f"no feature map carries the channels of {self.groups.items[number].name!r}")
        zeros = _mean([s[0] / s[4] for p, s in sums.items() if p.node in self._making])
        mean = _mean([s[1] / s[4] for s in sums.values()])
        variance = _mean([(s[3] / s[4] - (s[2] / s[4]).square()).clamp_min(0) for s in sums.values()])
        assert mean is not None
        assert variance is not None
        return Activations(zeros, mean, variance)


def _mean(parts: list[Tensor]) -> Tensor | None:
    """Mean over the operators in which a unit is (0 / 0 where it is not)."""
    return torch.stack(parts).nanmean(0) if parts else None


NEEDS.add("activations", Need(_Activations, "inputs"))


@criterion(
    "apoz",
    paper="Hu et al. 2016, Network Trimming, arXiv:1607.03250, eq. 1",
    needs=("activations",),
    order="most zeros behind the ReLU first (APoZ)",
)
def apoz(view: GroupView) -> Tensor:
    """Share of activations that are not zero behind the ReLU: 1 − APoZ.

    Formula: APoZ = #zeros / (N·M), N samples and M positions of the map. Channels that pass several ReLUs (a
    residual stream) take the mean over these.

    Raises:
        NotApplicable: No ReLU (or relative that makes zeros) follows the group.
    """
    found: Activations = view.statistic("activations")
    if found.zeros is None:
        raise NotApplicable(f"no ReLU follows the channels of {view.group.name!r}")
    return 1 - found.zeros


@criterion("mean_activation", paper="Molchanov et al. 2017, arXiv:1611.06440, §2.2", needs=("activations",))
def mean_activation(view: GroupView) -> Tensor:
    """Mean strength of the unit's activations: Σ|a| / (N·M).

    Taken behind the activation functions (the mean over several), or of the producing layer's output where none
    follows. |a| is a where the activation is a ReLU, as in the paper.
    """
    found: Activations = view.statistic("activations")
    return found.mean


@criterion(
    "variance",
    paper="Berisha et al. 2025, Variance-Based Pruning (VBP), arXiv:2507.12988, §3",
    needs=("activations",),
    absolute=True,
    scope="global",
    order="those first whose activations vary least",
)
def variance(view: GroupView) -> Tensor:
    """Variance of the unit's activations over samples and positions: E[a²] − E[a]².

    Taken where ``mean_activation`` is. Groups compare by it as it is. What a unit gives on average goes into the bias
    of the layers behind, as in the paper, by :func:`secateur.recover` with ``method="bias"``.
    """
    found: Activations = view.statistic("activations")
    return found.variance
