"""What a network would cost at any budget: the planner is run at some twenty of them, and nothing is cut."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from secateur.budget.choose import to_target, without
from secateur.budget.order import removal_order
from secateur.core.types import Target
from secateur.cost.counts import Costs
from secateur.criteria.scoring import Scores

__all__ = ["POINTS", "PlannedCut", "planned_cuts"]

POINTS = 20
"""Budgets at which the planner is run, about."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PlannedCut:
    """What the planner chose for one budget.

    Attributes:
        asked: MACs to keep that were asked for: a share up to 1, or a count above 1.
        keep: Which units stay, shape (units,), bool.
        params: Parameters that are left.
        macs: MACs of one sample that are left.
        size: Bytes of the file of weights that are left.
        widths: Units that every group keeps, in the order of the groups.
    """

    asked: float
    keep: Mask
    params: int
    macs: int
    size: int
    widths: tuple[int, ...]


def planned_cuts(
    costs: Costs, scores: Scores, *, scope: str, round_to: int = 1, min_units: int = 1, points: int = POINTS
) -> tuple[PlannedCut, ...]:
    """Plans cuts from the whole network down to the smallest that the widths allow, in MACs.

    Budgets are whole percentages at even distances, and at last the smallest network there is; what is left is the
    nearest at or below each that the widths allow.

    Args:
        costs: Exact costs under any choice.
        scores: What the units are worth; groups without any stay whole.
        scope: One of :data:`~secateur.budget.order.SCOPES`.
        round_to: Widths that are left are multiples of this.
        min_units: Units that every group keeps at least.
        points: About how many.

    Returns:
        From the dense network to the smallest; at least the dense network.
    """
    steps = removal_order(costs.groups.items, scores.values, scope=scope, round_to=round_to, min_units=min_units,
                          absolute=scores.absolute)  # fmt: skip
    everything = np.ones(costs.groups.units, dtype=bool)
    smallest = without(everything, steps)
    dense, least = (costs.measure("macs", keep) for keep in (everything, smallest))
    found = [_cut(costs, 1.0, everything)]
    for percent in _percentages(least / dense if dense else 1.0, points):
        near = to_target(costs, steps, everything, Target(macs=percent / 100))
        if near is not None and round(costs.measure("macs", near.keep)) < found[-1].macs:
            found.append(_cut(costs, percent / 100, near.keep))
    if round(least) < found[-1].macs:
        found.append(_cut(costs, least, smallest))
    return tuple(found)


def _percentages(least: float, points: int) -> range:
    """Whole percentages below 100 and above ``least``, at even distances.

    >>> list(_percentages(0.62, 4))
    [90, 80, 70]
    """
    distance = max(1, ceil(100 * (1 - least) / points))
    return range(100 - distance, int(100 * least), -distance)


def _cut(costs: Costs, asked: float, keep: Mask) -> PlannedCut:
    params, macs, size = (round(costs.measure(name, keep)) for name in ("params", "macs", "size"))
    widths = tuple(int(keep[group.units].sum()) for group in costs.groups.items)
    return PlannedCut(asked, keep, params, macs, size, widths)
