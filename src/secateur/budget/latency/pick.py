"""Which units stay under a limit of time, by the table: the knapsack, or the beginning of an order of removals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from secateur.budget.latency.knapsack import Choice, Problem, fill
from secateur.budget.latency.predict import Term
from secateur.budget.latency.table import parts
from secateur.budget.order import SCOPES, Step
from secateur.core.errors import InputError, UnknownNameError
from secateur.cost.counts import Costs
from secateur.criteria.scoring import Scores
from secateur.graph.groups import Group

__all__ = ["Picker", "Rules", "Widths", "by_order", "knapsack", "score_kept", "widths"]

Mask = NDArray[np.bool_]

_MOST = 48  # widths of one group that are looked at


@dataclass(frozen=True)
class Rules:
    """What the widths that are left have to keep to.

    Attributes:
        scope: ``None`` to keep the most score; else units go in the order of this scope until the time fits.
        round_to: Widths that are left are multiples of this.
        min_units: Units that every group keeps at least.
        fine: Whether groups of up to two steps may also become a half or a quarter of a step wide, if that keeps
            the most score: networks of few channels have no other width to go to.
    """

    scope: str | None = None
    round_to: int = 16
    min_units: int = 1
    fine: bool = False

    def __post_init__(self) -> None:
        """Checks the values."""
        if self.scope is not None and self.scope not in SCOPES:
            raise UnknownNameError("scope", self.scope, SCOPES)
        if self.round_to < 1 or self.min_units < 1:
            raise InputError(f"round_to and min_units are at least 1; got {self.round_to!r} and {self.min_units!r}.")

    def widths(self, size: int) -> list[int]:
        """Widths below ``size`` that a group may be cut to, the widest first.

        >>> Rules(fine=True).widths(32), Rules().widths(64), Rules(round_to=1).widths(96)[-3:]
        ([16, 8, 4], [48, 32, 16], [4, 2, 1])
        """
        finer = parts(self.round_to) if self.fine and size <= 2 * self.round_to else ()
        step = self.round_to
        while size > _MOST * step:
            step *= 2  # multiples of the runtime's step, mostly a power of two, stay among the widths
        least = -(-self.min_units // self.round_to) * self.round_to
        kept = [*range((size - 1) // step * step, 0, -step), *finer, *([least] if least % step else [])]
        return [width for width in kept if self.min_units <= width < size]


@dataclass(frozen=True)
class Picker:
    """What chooses the units that stay.

    Attributes:
        within: The units that stay when the table's time may be so many milliseconds; ``None`` where none fits.
        narrowest: The units that stay when as many go as may.
    """

    within: Callable[[float], Mask | None]
    narrowest: Mask


@dataclass(frozen=True)
class Widths:
    """The widths that one group may be cut to.

    Attributes:
        group: Number of the group.
        order: Its units, the ones that go first in front.
        kept: Units that stay, the dense width first.
        best: Sum of the best, the two best … scores.
        additive: See :class:`~secateur.criteria.scoring.Scores`.
    """

    group: int
    order: NDArray[np.int64]
    kept: tuple[int, ...]
    best: NDArray[np.float64]
    additive: bool = False

    @property
    def worth(self) -> NDArray[np.float64]:
        """What each width is worth: the root of the score that it keeps, or that score itself if it is additive.

        The sum of most scores would empty a group for a little more score elsewhere, yet the last channels of a group
        carry all that passes it. With a root the first channels to go cost least (docs/latency-targets.md).
        """
        kept = self.best[np.array(self.kept) - 1]
        return np.asarray(kept if self.additive else np.sqrt(kept))

    def cut(self, keep: Mask, number: int) -> Mask:
        """``keep`` with this group at its width ``number``."""
        keep = keep.copy()
        keep[self.order[: len(self.order) - self.kept[number]]] = False
        return keep


def widths(groups: Sequence[Group], scores: Scores, rules: Rules) -> list[Widths]:
    """The widths of every group that has scores, as the rules allow them, and the dense one.

    The score of a width is the sum of the scores it keeps, each divided by its group's mean unless scores of
    different groups compare as they are. Scores below zero are lifted, all by the same.
    """
    relative = {g: _relative(values, scores.absolute) for g, values in scores.values.items()}
    lift = -min(0.0, *(float(v.min()) for v in relative.values()))
    found = []
    for g, values in relative.items():
        size, order = len(groups[g]), np.argsort(values, kind="stable")
        kept = [width for width in rules.widths(size) if width >= groups[g].least and width % groups[g].step == 0]
        best = np.cumsum(values[order[::-1]] + lift)
        found.append(Widths(g, groups[g].units[order], (size, *kept), best, scores.additive))
    return found


def _relative(values: NDArray[np.float64], absolute: bool) -> NDArray[np.float64]:
    return values if absolute else values / (float(np.mean(values)) or 1.0)


def score_kept(found: Sequence[Widths], keep: Mask) -> float:
    """Share of the score that ``keep`` keeps, over the groups that may be cut."""
    kept = sum(float(one.best[int(keep[one.order].sum()) - 1]) for one in found)
    return kept / (sum(float(one.best[-1]) for one in found) or 1.0)


def knapsack(costs: Costs, found: Sequence[Widths], terms: Sequence[Term]) -> Picker:
    """Picks the widths that keep the most score; see :func:`~secateur.budget.latency.knapsack.solve`."""
    everything = np.ones(costs.groups.units, dtype=bool)
    full = costs.sizes(everything)
    gone = [np.stack([full - costs.sizes(one.cut(everything, k)) for k in range(len(one.kept))]) for one in found]
    problem = Problem(full, gone, [one.worth for one in found], terms)

    def keep(choice: Choice) -> Mask:
        left = everything
        for one, number in zip(found, choice, strict=True):
            left = one.cut(left, number)
        return left

    def within(limit_ms: float) -> Mask | None:
        choice = fill(problem, limit_ms)
        return None if choice is None else keep(choice)

    return Picker(within, keep(problem.narrowest))


def by_order(steps: Sequence[Step], units: int, ms: Callable[[Mask], float]) -> Picker:
    """Takes removals in their order until the time fits."""

    def without(count: int) -> Mask:
        keep = np.ones(units, dtype=bool)
        for step in steps[:count]:
            keep[step.units] = False
        return keep

    def within(limit_ms: float) -> Mask | None:
        low, high = -1, len(steps)  # low removals take too long, high fit
        if ms(without(high)) > limit_ms:
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if ms(without(middle)) <= limit_ms else (middle, high)
        return without(high)

    return Picker(within, without(len(steps)))
