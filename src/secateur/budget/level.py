"""One level of loss for all groups: from what each of them can spare alone, the ratios that meet a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from secateur.budget.choose import TOLERANCE
from secateur.budget.order import removal_order
from secateur.core.errors import BudgetError
from secateur.core.types import Target
from secateur.cost.counts import Costs

__all__ = ["Points", "Removals", "at_level", "envelope", "share_at"]

Points = Sequence[tuple[float, float]]
"""Share removed and loss, in the order of the shares; neither ever falls."""

_HALVINGS = 60


def envelope(shares: Sequence[float], losses: Sequence[float]) -> list[tuple[float, float]]:
    """The smallest curve that begins at (0, 0), never falls, and lies nowhere below the losses.

    A measured curve may dip: a network is luckier with more units gone. Nothing is to be won on that luck.

    >>> envelope((0.25, 0.5, 0.75), (0.2, 0.1, 0.4))
    [(0.0, 0.0), (0.25, 0.2), (0.5, 0.2), (0.75, 0.4)]
    """
    highest = np.maximum.accumulate([0.0, *losses]).tolist()
    return list(zip((0.0, *shares), highest, strict=True))


def share_at(points: Points, level: float) -> float:
    """The largest share whose loss is at most ``level``: between two points on the line between them.

    Behind the last point nothing was measured, so nothing more goes.

    >>> points = envelope((0.5, 0.75), (0.2, 0.4))
    >>> [round(share_at(points, level), 3) for level in (-1, 0.05, 0.3, 9)]
    [0.0, 0.125, 0.625, 0.75]
    """
    below = [k for k, (_, loss) in enumerate(points) if loss <= level]
    if not below:
        return 0.0
    share, loss = points[below[-1]]
    if below[-1] + 1 == len(points):
        return share
    next_share, next_loss = points[below[-1] + 1]
    return share + (level - loss) / (next_loss - loss) * (next_share - share)


class Removals:
    """The units of every group in the order in which they go, and what the network costs without some of them."""

    def __init__(self, costs: Costs, scores: Mapping[int, NDArray[np.float64]]) -> None:
        """``scores`` are those of the units that may go, by group number; higher = keep."""
        self.costs, self.scores = costs, scores
        self.groups = {costs.groups.items[number].name: number for number in scores}

    def steps(self, round_to: int = 1) -> dict[str, list[NDArray[np.int64]]]:
        """Units that go together, the worst first, by group: as many as widths in multiples of ``round_to`` ask for."""
        items = self.costs.groups.items
        found: dict[str, list[NDArray[np.int64]]] = {name: [] for name in self.groups}
        for step in removal_order(items, self.scores, scope="local", round_to=round_to, min_units=1):
            found[items[step.group].name].append(step.units)
        return found

    def units(self, name: str) -> int:
        """How many units a group has."""
        return len(self.costs.groups.items[self.groups[name]])


def at_level(curves: Mapping[str, Points], removals: Removals, target: Target, round_to: int = 1) -> dict[str, int]:
    """Units to remove of every group, so that the network meets a target and no group loses more than the others.

    Rule: from every group goes the largest share at which its loss, alone, is at most ℓ (:func:`share_at`), rounded
    down to whole units; ℓ is the smallest level, by bisection, at which parameters, MACs … meet the target. Where many
    shares lie at one level (a plateau), the same part of each of them goes.

    Args:
        curves: Loss over share, by group.
        removals: Which units go, and the costs.
        target: What is to be kept; not a latency.
        round_to: Widths that are left are multiples of this.

    Raises:
        BudgetError: The target is above the network, or out of reach of the shares that were measured.
    """
    steps, keep = removals.steps(round_to), np.ones(removals.costs.groups.units, dtype=bool)
    dense = removals.costs.measure(target.measure, keep)
    wanted = target.of(dense)
    if wanted > dense * (1 + TOLERANCE):
        raise BudgetError(f"The target of {wanted:,.0f} {target.measure} is above the dense network's {dense:,.0f}.")

    def taken(shares: Mapping[str, float]) -> dict[str, int]:
        return {name: _fitting(steps[name], shares[name] * removals.units(name)) for name in shares}

    def cost(shares: Mapping[str, float]) -> float:
        left = keep.copy()
        for name, count in taken(shares).items():
            for units in steps[name][:count]:
                left[units] = False
        return removals.costs.measure(target.measure, left)

    def at(level: float) -> dict[str, float]:
        return {name: share_at(points, level) for name, points in curves.items()}

    low, high = -1.0, max(points[-1][1] for points in curves.values())
    if (floor := cost(at(high))) > wanted:
        raise BudgetError(_out_of_reach(wanted, floor, dense, target.measure, curves))
    low, high = _bisected(lambda level: cost(at(level)) > wanted, low, high)
    above, below = at(low), at(high)

    def between(part: float) -> dict[str, float]:
        return {name: above[name] + part * (below[name] - above[name]) for name in curves}

    _, part = _bisected(lambda part: cost(between(part)) > wanted, 0.0, 1.0)
    return {name: sum(map(len, steps[name][:count])) for name, count in taken(between(part)).items()}


def _bisected(too_much: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """The narrowest interval whose beginning is too much and whose end is not."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_much(middle) else (low, middle)
    return low, high


def _fitting(steps: Sequence[NDArray[np.int64]], units: float) -> int:
    """How many steps remove at most so many units."""
    ends = np.cumsum([len(step) for step in steps])
    return int(np.searchsorted(ends, units + 1e-6, side="right"))


def _out_of_reach(wanted: float, floor: float, dense: float, measure: str, curves: Mapping[str, Points]) -> str:
    largest = max(points[-1][0] for points in curves.values())
    return (
        f"The target of {wanted:,.0f} {measure} cannot be met: with the largest share that was measured of every group "
        f"removed ({largest:.0%}), {floor:,.0f} are left ({floor / dense:.1%} of {dense:,.0f}). Measure larger ratios "
        "(ratios=(…, 0.95)), or more groups."
    )
