"""Cost criteria: what a unit is worth for the energy or the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.fx import Node

from secateur.cost.energy import node_energies
from secateur.criteria.base import GroupView, criterion
from secateur.criteria.magnitude import l2
from secateur.criteria.statistics import NEEDS, Collecting, Need, Statistic
from secateur.graph.groups import Groups
from secateur.graph.labels import Labels
from secateur.timing.layers import operator_times

__all__ = ["energy", "latency_share", "unit_costs"]


def unit_costs(groups: Groups, costs: Mapping[Node, float]) -> NDArray[np.float64]:
    """Shares out the cost of operators among the units whose removal makes them smaller, shape (units,).

    An operator of cost e along a dimension of n entries costs e / n less for each entry that goes; a unit's cost
    is the sum of that over everything it takes part in, as an output channel and as an input channel.

    Args:
        groups: All groups of the network.
        costs: Cost of operators; those left out cost nothing.
    """
    total = np.zeros(groups.units)
    for node, cost in costs.items():
        for labels, dim in _dimensions(groups, node):
            for vector in labels.at(dim):
                units = groups.unit_of(vector)
                np.add.at(total, units[units >= 0], cost / len(vector))
    return total


def _dimensions(groups: Groups, node: Node) -> list[tuple[Labels, int]]:
    """What an operator's cost is proportional to: the sizes in its MACs, else those of its output."""
    if node in groups.flow.macs:
        return [(labels, dim % labels.ndim) for labels, dim in groups.flow.macs[node].sizes]
    labels = groups.flow.labels.get(node)
    return [(labels, dim) for dim in labels.dims] if isinstance(labels, Labels) else []


class _Shares(Statistic):
    """A unit's cost, relative to the mean over all units of the network."""

    def __init__(self, setting: Collecting, costs: Mapping[Node, float]) -> None:
        super().__init__(setting)
        total = unit_costs(self.groups, costs)
        self._shares = torch.from_numpy(total / max(float(total.mean()), np.finfo(float).tiny))

    def of(self, number: int) -> Tensor:
        return self._shares[torch.from_numpy(self.groups.items[number].units)]


def _energies(setting: Collecting) -> Statistic:
    return _Shares(setting, {n: e.total for n, e in node_energies(setting.groups).items()})


def _times(setting: Collecting) -> Statistic:
    return _Shares(setting, operator_times(setting.groups.flow.traced))


NEEDS.add("energies", Need(_energies, ""))
NEEDS.add("times", Need(_times, "", measured=True))


def _worth(view: GroupView, costs: Tensor) -> Tensor:
    """Magnitude relative to the group's mean, per cost relative to the network's mean."""
    magnitude = l2(view).double()
    return magnitude / magnitude.mean().clamp_min(1e-30) / costs.clamp_min(1e-12)


@criterion(
    "energy", paper="Yang et al. 2017, Energy-Aware Pruning, arXiv:1611.05128", needs=("energies",), absolute=True
)
def energy(view: GroupView) -> Tensor:
    """Magnitude per energy that goes with the unit.

    Formula: (‖w‖₂ / mean of the group) / (e / mean of the network), e the energy that goes with the unit by
    `secateur.cost.energy`. The paper prunes layers in the order of their energy and the smallest magnitudes
    within a layer: so does this, with scope ``global``. Within one group it is the order of ‖w‖₂.
    """
    return _worth(view, view.statistic("energies"))


@criterion(
    "latency_share", paper="Yang et al. 2018, NetAdapt, arXiv:1804.03230, in spirit", needs=("times",), absolute=True
)
def latency_share(view: GroupView) -> Tensor:
    """Magnitude per measured time that goes with the unit.

    Formula: (‖w‖₂ / mean of the group) / (t / mean of the network), t the measured milliseconds (one thread, on the
    example inputs) that go with the unit. Measured anew each time, so two runs may differ where units are close.
    """
    return _worth(view, view.statistic("times"))
