"""The criterion that knows of a repair: reconstruction error after a refit, weighed by what the output feels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from secateur.core.inputs import PIECE, Batch, pieces
from secateur.cost.counts import Costs
from secateur.criteria.base import GroupView, criterion
from secateur.criteria.least_squares.affine import Options
from secateur.criteria.least_squares.gather import Curve, Ledger
from secateur.criteria.least_squares.probe import sensitivities
from secateur.criteria.least_squares.scale import check_scale
from secateur.criteria.least_squares.shelf import Shelf
from secateur.criteria.least_squares.sites import norms, sites
from secateur.criteria.least_squares.sweep import Stops, Sweep
from secateur.criteria.least_squares.twin import Twin
from secateur.criteria.least_squares.walk import Walker
from secateur.criteria.statistics import NEEDS, Collecting, Learner, Need

__all__ = ["reconstruction"]

ROWS = 16_384
"""Positions that are looked at per layer, over all samples: an order needs fewer than a fit."""

PROBES = 64
"""Samples on which the groups' effect on the output is measured."""


class _Rises(Learner):
    """Rise of the output's error with every unit that goes and a refit; per MAC (parameter …) where that is the aim.

    Within a group, units go one by one: next goes the one without which the refitted consumers lose least (a closed
    form, OBS). Across groups, that error is turned into error of the network's output by measurement: each group alone
    is cut to a half and a quarter, its consumers refitted, and the outputs compared.
    """

    def __init__(self, setting: Collecting) -> None:
        super().__init__(setting)
        walker = Walker(self.groups.flow.traced.module)
        every = np.ones(len(self.groups.component), dtype=bool)
        self._pair = Twin(self.groups, every, walker, walker, {n: n for n in walker.nodes})
        self._shelf = Shelf()
        self._sweep = Sweep((walker,), self._shelf, what="Choosing channels")
        self._seed, self._measure = setting.seed, setting.measure
        self._first: Any = None
        self._scores: dict[int, Tensor] = {}

    def learn(self, batch: Batch) -> None:
        flow = self.groups.flow
        for part in pieces(batch, PIECE if flow.traced.dynamic else batch.size, flow.traced, rest=True):
            if self._first is None:
                self._first = part.inputs
                self.notes = tuple(check_scale(self._pair.dense, norms(flow), part.inputs))
            self._sweep.add(part.inputs)

    def finish(self) -> None:
        found = sites(self.groups.flow)
        ledgers: list[Ledger] = []

        def stops(samples: int) -> Stops:
            options = Options(seed=self._seed, samples=samples, rows=ROWS)
            ledgers.append(Ledger(self._pair, self._shelf, options))
            return ledgers[0].stops(found)

        try:
            self._sweep.run(stops)
            curves = ledgers[0].finished()
            factors = sensitivities(self._pair, curves, self._shelf, self._first, PROBES)
        finally:
            self._shelf.close()
        costs = Costs(self.groups) if self._measure else None
        for number, curve in curves.items():
            values = _scores(self.groups.items[number].units, curve.times(factors[number]), costs, self._measure or "")
            self._scores[number] = torch.from_numpy(values)

    def of(self, number: int) -> Tensor:
        return self._scores[number]


NEEDS.add("rises", Need(_Rises, "inputs"))


def _scores(units: NDArray[np.int64], curve: Curve, costs: Costs | None, measure: str) -> NDArray[np.float64]:
    """The curve's rises by unit, per what one unit costs; convex along the group."""
    price = 1.0
    if costs is not None:
        everything = np.ones(costs.groups.units, dtype=bool)
        without = everything.copy()
        without[units[0]] = False
        price = max(costs.measure(measure, everything) - costs.measure(measure, without), 1e-9)
    rises = _rising(np.asarray(curve.rises)) / price
    values = np.full(len(units), np.inf)
    values[curve.order] = rises * (1 + 1e-9 * np.arange(1, len(rises) + 1))
    values[np.isinf(values)] = 10 * max(rises.max(initial=0.0), 1e-30)
    return values


@criterion(
    "reconstruction",
    paper="He et al. 2017, arXiv:1707.06168, eq. 4, with OBS (Hassibi and Stork 1993) for its closed form",
    needs=("rises",),
    absolute=True,
    additive=True,
    scope="global",
    order="those first that the layers behind can best make good",
)
def reconstruction(view: GroupView) -> Tensor:
    """Error of the network's output that a refit of the layers behind cannot make good.

    The score of a unit is the rise of the error (mean squared, relative to the variance of the output) when it goes
    after all that score lower in its group; where MACs, parameters, energy or bytes are aimed at, per unit of these
    that it saves. Groups compare, so every layer gets the width that the output needs (scope ``global`` unless another
    is asked for). The cut itself changes no weights; :func:`secateur.recover` solves the refit that is foreseen here.
    """
    found: Tensor = view.statistic("rises")
    return found


def _rising(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rising sequence nearest to ``values``: neighbours that fall are pooled.

    >>> _rising(np.array([1.0, 3.0, 2.0, 4.0])).tolist()
    [1.0, 2.5, 2.5, 4.0]
    """
    pools: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while pools and pools[-1][0] > mean:
            before, many = pools.pop()
            mean, count = (before * many + mean * count) / (many + count), many + count
        pools.append((mean, count))
    return np.concatenate([np.full(c, m) for m, c in pools]) if pools else values
