"""What selection has to know of a group: in which order its units go, and how the error grows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.base import GroupView
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.design import design
from secateur.criteria.least_squares.elimination import Fit, eliminate, fit_without
from secateur.criteria.least_squares.fitted import Fitted
from secateur.criteria.least_squares.layout import layout, transposed
from secateur.criteria.least_squares.normal import Moments
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.sites import Site
from secateur.criteria.least_squares.sweep import Later
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Values
from secateur.criteria.magnitude import l2
from secateur.graph.flow import shape_of
from secateur.graph.ops import arguments

__all__ = ["PROBED", "Curve", "Gather", "Ledger"]

PROBED = (0.5, 0.75)
"""Shares of a group's units whose removal is tried out."""

COLUMNS = 2_500
"""Beyond so many columns, channels of several columns each go by one factor each instead of a full refit."""


@dataclass(frozen=True)
class Curve:
    """How a group's loss grows while its units go.

    Attributes:
        order: Units (positions in the group) in the order in which they go; one stays.
        rises: Rise of the error with each.
        repaired: For every share tried: how many units go, and the name on the shelf of the refitted weights by name.
    """

    order: Sequence[int]
    rises: Sequence[float]
    repaired: Sequence[tuple[int, Hashable]] = ()

    def times(self, factor: float) -> Curve:
        """The same with every rise multiplied."""
        return replace(self, rises=[r * factor for r in self.rises])


class Ledger:
    """Collects the consumers of every group, and eliminates when the last one is there."""

    def __init__(self, pair: Twin, shelf: Shelf, options: Options) -> None:
        """Nothing is known yet; what has to wait does so on ``shelf``."""
        self.pair, self.shelf, self.options = pair, shelf, options
        self._group_of = np.full(pair.groups.units + 1, -1)  # the last entry stands for pinned
        self._place = np.zeros(pair.groups.units + 1, dtype=np.int64)
        for number, group in enumerate(pair.groups.items):
            self._group_of[group.units] = number
            self._place[group.units] = np.arange(len(group))
        self._open: dict[int, list[Gather]] = {}
        self._awaited: Counter[int] = Counter()
        self._uses: Counter[Hashable] = Counter()
        self._curves: dict[int, Curve] = {}

    def stops(self, sites: Sequence[Site]) -> list[Later]:
        """The layers whose inputs can go; each is made when the sweep comes there."""
        wanted = {site: self.groups_of(site) for site in sites}
        wanted = {site: groups for site, groups in wanted.items() if groups}
        for site, groups in wanted.items():
            self._awaited.update(groups)
            self._uses[key_of(self.pair, site)] += len(groups)
        return [Later(site.name, partial(Gather, self.pair, site, self.options, self)) for site in wanted]

    def groups_of(self, site: Site) -> list[int]:
        """The groups whose units a layer's columns are, if it is not too large."""
        weight = self.pair.tensors[site.weight]
        size = layout(site.node, weight).sizes(weight)[0]
        return sorted(self.columns(site, 1)) if size <= self.options.largest else []

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

    def add(self, gather: Gather) -> None:
        """A consumer's Gram matrix is complete."""
        for number in gather.columns:
            self._open.setdefault(number, []).append(gather)
            self._awaited[number] -= 1
            if not self._awaited[number]:
                consumers = self._open.pop(number)
                self._curves[number] = self._eliminated(number, consumers)
                self._release(consumers)

    def _release(self, consumers: Sequence[Gather]) -> None:
        """Forgets Gram matrices that no other group waits for."""
        for gather in consumers:
            self._uses[gather.key] -= 1
            if not self._uses[gather.key]:
                self.shelf.drop(gather.key)

    def finished(self) -> dict[int, Curve]:
        """Curves of all groups; those that enter no layer with weights go by the norm of theirs."""
        for number in set(range(len(self.pair.groups.items))) - set(self._curves):
            self._curves[number] = self._by_norm(number)
        return dict(sorted(self._curves.items()))

    def _eliminated(self, number: int, consumers: Sequence[Gather]) -> Curve:
        units = len(self.pair.groups.items[number])
        order, rises = eliminate(list(_fits(number, consumers)), units)
        counts = [int(units * share) for share in PROBED]
        tensors: list[dict[str, Tensor]] = [{} for _ in counts]
        for gather in consumers:
            for found, new in zip(tensors, gather.without(number, [order[:gone] for gone in counts]), strict=True):
                found.update(new)
        names = [("repaired", number, gone) for gone in counts]
        for name, found in zip(names, tensors, strict=True):
            self.shelf.put(name, found)
        return Curve(order, rises, list(zip(counts, names, strict=True)))

    def _by_norm(self, number: int) -> Curve:
        view = GroupView(self.pair.groups.items[number], self.pair.groups, torch.Generator())
        norms = l2(view).double().square()
        order = norms.argsort(stable=True)[:-1]
        rises = norms[order] / norms.sum().clamp_min(1e-30)
        names = [(int(len(norms) * share), ("repaired", number, int(len(norms) * share))) for share in PROBED]
        for _, name in names:
            self.shelf.put(name, {})
        return Curve(order.tolist(), rises.tolist(), names)


def key_of(pair: Twin, site: Site) -> Hashable:
    """What layers have in common whose design matrix is the same: queries, keys and values, say."""
    return "gram", arguments(site.node)["input"].name, layout(site.node, pair.tensors[site.weight])


class Gather(Fitted):
    """Normal equations of a layer of the dense network, on its own response, which follows from the Gram matrix."""

    def __init__(self, pair: Twin, site: Site, options: Options, ledger: Ledger) -> None:
        """Sums up nothing where another layer with the same input has done so."""
        super().__init__(pair, site, options)
        weight = pair.tensors[site.weight]
        groups, (size, _) = self.layout.groups, self.layout.sizes(weight)
        channels = weight.shape[0] // groups if self.layout.transposed else weight.shape[1]
        self.columns = ledger.columns(site, size // max(1, channels))
        self.key = key_of(pair, site)
        self._sum = None if self.key in ledger.shelf else Moments.zeros(groups, size, 0)
        self._ledger = ledger

    def until(self) -> tuple[int, ...]:
        """The layer's input is there."""
        return (self.twin.dense.place[self.node],)

    def see(self, turn: int, index: int, values: Sequence[Values]) -> None:
        """One batch: the response follows from the columns, so only they are counted."""
        if self._sum is not None:
            x, shape = self.input(values[0]), shape_of(self.node)
            self._sum.add_rows(design(self.layout, x, shape, self.at(index, x.new_empty(shape))))

    def finish(self, turn: int) -> None:
        """All batches were seen."""
        if self._sum is not None:
            self._ledger.shelf.put(self.key, self._sum.gram)
            self._sum = None
        self._ledger.add(self)

    def gram(self) -> Tensor:
        """Σ [u; 1][u; 1]ᵀ."""
        found: Tensor = self._ledger.shelf.get(self.key)
        return found

    def moments(self, gram: Tensor) -> Moments:
        """The response is the present map of the columns, so its moments follow from theirs."""
        prior = self.map()
        cross = gram @ prior.mT
        return Moments(gram, cross, (prior.mT * cross).sum(1))

    def without(self, number: int, gone: Sequence[Sequence[int]]) -> Iterator[dict[str, Tensor]]:
        """The layer's tensors, in the dense shape, refitted without some units of a group; for each set of units."""
        of = self.columns[number]
        moments, prior = self.moments(self.gram()), self.map()
        for units in gone:
            here = [of[u] for u in units if u in of]
            if not here or _by_factor(moments.gram, of):
                yield {}
                continue
            parts = [fit_without(moments, g, torch.cat(here), prior) for g in range(len(moments.gram))]
            kind = self.twin.tensors[self.site.weight].dtype
            yield {n: t.to(kind) for n, t in self.tensors_of(torch.stack(parts)).items()}


def _by_factor(gram: Tensor, columns: dict[int, Tensor]) -> bool:
    """Whether a full refit without every channel would take too long."""
    return gram.shape[1] > COLUMNS and max(map(len, columns.values())) > 1


def _fits(number: int, consumers: Sequence[Gather]) -> Iterator[Fit]:
    """The problems that a group's units are taken out of: one per input, and per group of a grouped convolution."""
    alike: dict[Hashable, list[Gather]] = {}
    for gather in consumers:
        of = gather.columns[number]
        alike.setdefault((gather.key, tuple((u, int(c[0])) for u, c in of.items())), []).append(gather)
    for several in alike.values():
        grams, columns = several[0].gram(), list(several[0].columns[number].items())
        found = [_scaled(gather, grams) for gather in several]
        for g, gram in enumerate(grams):
            if _by_factor(grams, dict(columns)):
                for _, prior in found:
                    small, right, own = _factors(gram, prior[g], columns)
                    yield Fit.of(small, right, own, 1.0)
            else:
                yield Fit.of(gram, torch.cat([cross[g] for cross, _ in found], 1), columns, 1.0)


def _scaled(gather: Gather, gram: Tensor) -> tuple[Tensor, Tensor]:
    """A consumer's cross moments and map, over the root of the variance of its response."""
    m = gather.moments(gram)
    mean = m.cross[:, -1] / max(m.rows, 1)
    root = float((m.square - m.rows * mean**2).sum().clamp_min(1e-30)) ** 0.5
    return m.cross / root, gather.map() / root


def _factors(
    gram: Tensor, prior: Tensor, columns: list[tuple[int, Tensor]]
) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
    """The same with one factor per unit: Z holds the part of the response that each unit brings."""
    parts = gram * (prior.mT @ prior)
    place = torch.full((gram.shape[0],), len(columns))
    for k, (_, own) in enumerate(columns):
        place[own] = k
    rows = torch.zeros(len(columns) + 1, gram.shape[0], dtype=gram.dtype).index_add_(0, place, parts)
    small = torch.zeros(len(columns) + 1, len(columns) + 1, dtype=gram.dtype).index_add_(1, place, rows)
    return small, small.sum(1, keepdim=True), [(u, torch.tensor([k])) for k, (u, _) in enumerate(columns)]
