"""Similarity criteria: what is redundant goes, one of each cluster stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx import Node

from secateur.criteria.base import GroupView, NotApplicable, criterion
from secateur.criteria.places import Place, maps
from secateur.criteria.statistics import NEEDS, Collecting, Need, Watcher

__all__ = ["Maps", "filter_similarity", "fpgm", "map_similarity", "redundancy"]


def redundancy(similarity: Tensor, strength: Tensor) -> Tensor:
    """Scores that remove redundant units one after the other, shape (n,), in [0, 2].

    Of the most similar pair that is left, the weaker unit goes; so one of each cluster of similar units stays until
    nothing more similar is left. A unit's score is 1 − its similarity when it went; the last one has the highest.

    Args:
        similarity: Symmetric, in [−1, 1], shape (n, n); the diagonal does not count.
        strength: What decides which of two similar units stays, shape (n,).

    >>> redundancy(torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.2], [0.1, 0.2, 1.0]]), torch.tensor([2.0, 1.0, 1.0]))
    tensor([2.0000, 0.1000, 0.9000], dtype=torch.float64)
    """
    left = similarity.double().clone().fill_diagonal_(-torch.inf)
    scores = torch.full((len(left),), 2.0, dtype=torch.float64)
    nearest, where = left.max(1)
    for _ in range(len(left) - 1):
        first = int(nearest.argmax())
        second = int(where[first])
        gone = min(first, second, key=lambda unit: (float(strength[unit]), -unit))
        scores[gone] = 1 - nearest[first]
        left[gone], left[:, gone] = -torch.inf, -torch.inf
        stale = (where == gone).nonzero().ravel()
        nearest[stale], where[stale] = left[stale].max(1)
        nearest[gone] = -torch.inf
    return scores


def _several(view: GroupView) -> None:
    if len(view) < 2:
        raise NotApplicable(f"the single channel of {view.group.name!r} has nothing to be similar to")


# -------------------------------------------------------------------------------------------------------- filters


def _filters(view: GroupView) -> Tensor:
    _several(view)
    filters = view.filters().double()
    if not filters.shape[1]:
        raise NotApplicable(f"the channels of {view.group.name!r} have no filters of their own")
    return filters


@criterion(
    "filter_similarity",
    paper="Ayinde & Zurada 2018, Redundant Feature Pruning, arXiv:1802.07653",
    absolute=True,
    order="those first that are most alike (filter_similarity)",
)
def filter_similarity(view: GroupView) -> Tensor:
    """Redundancy of filters by cosine: one of each cluster of similar ones stays.

    Formula: 1 − cosine to the nearest filter that is left when it goes, cos(f, g) = f·g / (‖f‖‖g‖) of flattened
    filters, those of coupled layers in one row. Of the most similar pair the one of smaller norm goes first (see
    :func:`redundancy`). A filter of zeros counts as a copy.

    Raises:
        NotApplicable: A single channel, or none with filters of its own.
    """
    filters = _filters(view)
    norms = filters.norm(dim=1)
    unit = F.normalize(filters, dim=1)
    empty = norms == 0
    return redundancy(torch.where(empty | empty.unsqueeze(1), 1.0, unit @ unit.T), norms)


@criterion("fpgm", paper="He et al. 2019, Filter Pruning via Geometric Median, arXiv:1811.00250, §3.3")
def fpgm(view: GroupView) -> Tensor:
    """Distance from the geometric median of the filters: Σ ‖f − g‖₂ over all g.

    What lies nearest to it goes, for the others can stand for it. Filters are flattened, those of coupled layers in
    one row.

    Raises:
        NotApplicable: A single channel, or none with filters of its own.
    """
    filters = _filters(view)
    # Without the detour over ‖f‖² + ‖g‖² − 2f·g, which loses the distance of near copies to rounding.
    return torch.cdist(filters, filters, compute_mode="donot_use_mm_for_euclid_dist").sum(1)


# ----------------------------------------------------------------------------------------------------------- maps


@dataclass(frozen=True)
class Maps:
    """How the feature maps of a group go together.

    Attributes:
        correlation: Pearson correlation over all samples and positions, shape (n, n); 1 where a map is constant.
        variance: Of every map, shape (n,), relative to the group's mean where it lies in several places.
    """

    correlation: Tensor
    variance: Tensor


class _Moments:
    """Sums, and sums of products, of the maps of one group in one place, around the means of the first batch."""

    def __init__(self, place: Place) -> None:
        self.place, self.count = place, 0
        self.units, self._columns = place.columns()
        size = len(self.units)
        self._shift = torch.zeros(size, 1, dtype=torch.float64)
        self._sums = torch.zeros(size, dtype=torch.float64)
        self._products = torch.zeros(size, size, dtype=torch.float64)

    def add(self, value: Tensor) -> None:
        rows = self.place.rows(value)[self._columns.to(value.device)].flatten(1).double().cpu()
        if not self.count:
            self._shift = rows.mean(1, keepdim=True)
        rows = rows - self._shift
        self.count += rows.shape[1]
        self._sums += rows.sum(1)
        self._products += rows @ rows.T

    @property
    def covariance(self) -> Tensor:
        mean = self._sums / self.count
        return self._products / self.count - mean.outer(mean)


class _Maps(Watcher):
    """Adds up co-moments: n² numbers for each place that carries n maps, whatever the number of samples."""

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        self._moments = [_Moments(p) for p in maps(self.groups)]
        self.nodes = [m.place.node for m in self._moments]

    def see(self, node: Node, value: Tensor, inputs: Sequence[Any]) -> None:
        for moments in self._moments:
            if moments.place.node is node:
                moments.add(value)

    def of(self, number: int) -> Maps:
        size = len(self.groups.items[number])
        found = [m for m in self._moments if m.place.group == number]
        if not found:
            raise NotApplicable(f"no feature map carries the channels of {self.groups.items[number].name!r}")
        total, seen = torch.zeros(size, size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
        variance = torch.zeros(size, dtype=torch.float64)
        for moments in found:
            covariance, units = moments.covariance, moments.units
            total[units.unsqueeze(1), units] += _correlation(covariance)
            seen[units.unsqueeze(1), units] += 1
            diagonal = covariance.diagonal()
            variance[units] += diagonal / diagonal.mean().clamp_min(torch.finfo(torch.float64).tiny)
        return Maps(total / seen.clamp_min(1), variance)


def _correlation(covariance: Tensor) -> Tensor:
    deviation = covariance.diagonal().clamp_min(0).sqrt()
    constant = deviation <= 1e-9 * deviation.max()  # what rounding leaves of a map that does not change
    scaled = covariance / deviation.outer(deviation)
    return torch.where(constant | constant.unsqueeze(1), 1.0, scaled.clamp(-1, 1))


NEEDS.add("maps", Need(_Maps, "inputs"))


@criterion(
    "map_similarity",
    paper="Ayinde & Zurada 2018, arXiv:1802.07653, on feature maps",
    needs=("maps",),
    absolute=True,
    order="those first whose maps are most alike (map_similarity)",
)
def map_similarity(view: GroupView) -> Tensor:
    """Redundancy of feature maps by correlation: one of each cluster of similar ones stays.

    Formula: 1 − correlation with the nearest map that is left when it goes: Pearson correlation over all samples
    and positions, behind the activation function (the mean over several). Of the most similar pair the map of
    smaller variance goes first (see :func:`redundancy`). A map that never changes counts as a copy: a bias can
    stand for it.

    Raises:
        NotApplicable: A single channel.
    """
    _several(view)
    found: Maps = view.statistic("maps")
    return redundancy(found.correlation, found.variance)
