"""What selection has to know of a group: in which order its units go, and how the error grows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.base import GroupView
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.design import design
from secateur.criteria.least_squares.elimination import Fit, eliminate, fit_without
from secateur.criteria.least_squares.fitted import Fitted
from secateur.criteria.least_squares.layout import transposed
from secateur.criteria.least_squares.normal import Moments
from secateur.criteria.least_squares.sites import Site
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values
from secateur.criteria.magnitude import l2
from secateur.graph.flow import shape_of
from secateur.graph.ops import arguments

__all__ = ["PROBED", "Curve", "Gather", "Ledger"]

PROBED = (0.5, 0.75)
"""Shares of a group's units whose removal is tried out."""

COLUMNS = 2_500
"""Beyond so many columns, channels go by one factor each instead of a full refit."""


@dataclass(frozen=True)
class Curve:
    """How a group's loss grows while its units go.

    Attributes:
        order: Units (positions in the group) in the order in which they go; one stays.
        rises: Rise of the error with each.
        repaired: For every share tried: how many units go, and the refitted weights by name.
    """

    order: Sequence[int]
    rises: Sequence[float]
    repaired: Sequence[tuple[int, Mapping[str, Tensor]]] = ()

    def times(self, factor: float) -> Curve:
        """The same with every rise multiplied."""
        return replace(self, rises=[r * factor for r in self.rises])


class Ledger:
    """Collects the consumers of every group, and eliminates when the last one is there."""

    def __init__(self, pair: Twin) -> None:
        """Nothing is known yet."""
        self.pair = pair
        self._group_of = np.full(pair.groups.units + 1, -1)  # the last entry stands for pinned
        self._place = np.zeros(pair.groups.units + 1, dtype=np.int64)
        for number, group in enumerate(pair.groups.items):
            self._group_of[group.units] = number
            self._place[group.units] = np.arange(len(group))
        self._open: dict[int, list[Gather]] = {}
        self._awaited: dict[int, int] = {}
        self._curves: dict[int, Curve] = {}

    def columns(self, site: Site, taps: int) -> dict[int, dict[int, Tensor]]:
        """Columns of a layer's matrix by group and unit."""
        labels = self.pair.groups.flow.tensors[site.weight]
        flipped = transposed(site.node)
        if flipped and arguments(site.node)["groups"] > 1:  # every group has columns of its own
            return {}
        dim = 0 if flipped else 1
        vectors = labels.at(dim)
        units = self.pair.groups.unit_of(vectors[0]) if vectors else np.zeros(0, np.int64)
        found: dict[int, dict[int, list[int]]] = {}
        for channel, unit in enumerate(units.tolist()):
            number = int(self._group_of[unit])
            if number >= 0:
                own = found.setdefault(number, {}).setdefault(int(self._place[unit]), [])
                own += range(channel * taps, (channel + 1) * taps)
        return {
            g: {u: torch.tensor(c) for u, c in of.items()}
            for g, of in found.items()
            if len({len(c) for c in of.values()}) == 1
        }

    def wants(self, site: Site) -> bool:
        """Whether a layer's input channels can go."""
        return bool(self.columns(site, 1))

    def expect(self, gather: Gather) -> None:
        """Notes that a group has this consumer."""
        for number in gather.columns:
            self._awaited[number] = self._awaited.get(number, 0) + 1

    def add(self, gather: Gather) -> None:
        """A consumer's normal equations are complete."""
        for number in gather.columns:
            self._open.setdefault(number, []).append(gather)
            self._awaited[number] -= 1
            if not self._awaited[number]:
                self._curves[number] = self._eliminated(number, self._open.pop(number))

    def finished(self) -> dict[int, Curve]:
        """Curves of all groups; those that enter no layer with weights go by the norm of theirs."""
        for number in set(range(len(self.pair.groups.items))) - set(self._curves):
            self._curves[number] = self._by_norm(number)
        return dict(sorted(self._curves.items()))

    def _eliminated(self, number: int, consumers: Sequence[Gather]) -> Curve:
        units = len(self.pair.groups.items[number])
        order, rises = eliminate([fit for c in consumers for fit in c.fits(number)], units)
        repaired = []
        for share in PROBED:
            gone = int(units * share)
            tensors = {n: t for c in consumers for n, t in c.without(number, order[:gone]).items()}
            repaired.append((gone, tensors))
        return Curve(order, rises, repaired)

    def _by_norm(self, number: int) -> Curve:
        view = GroupView(self.pair.groups.items[number], self.pair.groups, torch.Generator())
        norms = l2(view).double().square()
        order = norms.argsort(stable=True)[:-1]
        rises = norms[order] / norms.sum().clamp_min(1e-30)
        counts = [int(len(norms) * share) for share in PROBED]
        return Curve(order.tolist(), rises.tolist(), [(c, {}) for c in counts])


class Gather(Fitted):
    """Normal equations of a layer of the dense network, on its own response."""

    def __init__(self, pair: Twin, site: Site, options: Options, ledger: Ledger) -> None:
        """Tells the ledger which groups enter the layer."""
        super().__init__(pair, site, options)
        self.prior = self.map()
        groups, outputs, size = self.prior.shape
        self.taps = (size - 1) // max(1, self._channels(groups))
        self.columns = ledger.columns(site, self.taps) if size - 1 <= options.largest else {}
        self.moments = Moments.zeros(groups, size - 1, outputs) if self.columns else None
        self._ledger = ledger
        ledger.expect(self)

    def _channels(self, groups: int) -> int:
        weight = self.twin.tensors[self.site.weight]
        return weight.shape[0] // groups if self.layout.transposed else weight.shape[1]

    def until(self) -> tuple[int, ...]:
        """The layer's input is there."""
        return (self.twin.dense.place[self.node],)

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch: the response follows from the columns, so only they are counted."""
        if self.moments is None:
            return
        x = self.input(values[0])
        shape = shape_of(self.node)
        at = self.at(index, x.new_empty(shape))
        self.moments.add_rows(design(self.layout, x, shape, at))

    def finish(self, turn: int) -> None:
        """The response is the present map of the columns, so its moments follow from theirs."""
        if self.moments is None:
            return
        self.moments.cross = self.moments.gram @ self.prior.mT
        self.moments.square = (self.prior.mT * self.moments.cross).sum(1)
        self._ledger.add(self)

    def fits(self, number: int) -> list[Fit]:
        """The problems that a group's units are taken out of, one per group of a grouped convolution."""
        assert self.moments is not None
        m, of = self.moments, self.columns[number]
        mean = m.cross[:, -1] / max(m.rows, 1)
        scale = float((m.square - m.rows * mean**2).sum().clamp_min(1e-30))
        found = []
        for g in range(m.gram.shape[0]):
            gram, cross, columns = m.gram[g], m.cross[g], list(of.items())
            if gram.shape[0] > COLUMNS:
                gram, cross, columns = self._by_channel(gram, self.prior[g], columns)
            found.append(Fit.of(gram, cross, columns, scale))
        return found

    @staticmethod
    def _by_channel(
        gram: Tensor, prior: Tensor, columns: list[tuple[int, Tensor]]
    ) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
        """The same with one factor per unit: Z holds the part of the response that each unit brings."""
        parts = gram * (prior.mT @ prior)
        place = torch.full((gram.shape[0],), len(columns))
        for k, (_, own) in enumerate(columns):
            place[own] = k
        small = torch.zeros(len(columns) + 1, len(columns) + 1, dtype=gram.dtype)
        small.index_put_((place[:, None], place[None]), parts, accumulate=True)
        return small, small.sum(1, keepdim=True), [(u, torch.tensor([k])) for k, (u, _) in enumerate(columns)]

    def without(self, number: int, gone: Sequence[int]) -> dict[str, Tensor]:
        """The layer's tensors, in the dense shape, refitted without some units of a group."""
        assert self.moments is not None
        of = self.columns[number]
        if not any(u in of for u in gone):
            return {}
        columns = torch.cat([of[u] for u in gone if u in of])
        if self.moments.gram.shape[1] > COLUMNS:
            return {}
        parts = [fit_without(self.moments, g, columns, self.prior) for g in range(self.moments.gram.shape[0])]
        kind = self.twin.tensors[self.site.weight].dtype
        return {n: t.to(kind) for n, t in self.tensors_of(torch.stack(parts)).items()}
