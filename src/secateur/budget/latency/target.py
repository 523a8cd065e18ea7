"""A latency as a target: solved under the table, measured as a whole, corrected, until it is met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.budget.latency.pick import Picker, Rules, Widths, by_order, knapsack, score_kept, widths
from secateur.budget.latency.predict import Term, layer_terms, predicted
from secateur.budget.latency.store import Setting
from secateur.budget.latency.whole import DenseInRuntime, PairTimes
from secateur.budget.order import removal_order
from secateur.core.errors import BudgetError, PlanError
from secateur.core.progress import LOG
from secateur.core.types import ExampleInputs, Target
from secateur.cost.counts import Costs
from secateur.criteria.scoring import Scores

__all__ = ["TOLERANCE", "LatencyOutcome", "in_words", "setting_of", "to_latency"]

TOLERANCE = 0.05
"""A latency counts as met within five per cent: times stray."""

_ENOUGH = 0.01  # closer than this, another round would follow the noise
_NEAR = 0.03  # closer than this, no other network is looked for
_ROUNDS = 6
_NUDGES, _NUDGE = 8, 0.03

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LatencyOutcome:
    """What came of a latency target.

    Attributes:
        keep: Which units stay, shape (units,), bool.
        record: The measured figures, for the plan.
        notes: The same in words.
    """

    keep: Mask
    record: dict[str, Any]
    notes: tuple[str, ...]


def setting_of(target: Target, *, installed: bool = True) -> Setting:
    """Where the latency of ``target`` is measured.

    Args:
        target: A latency.
        installed: Whether the runtime has to be there: for what is only read or listed it need not.

    Raises:
        UnknownNameError: There is no such runtime.
        InputError: It is not installed; the message holds the install command.
    """
    setting = Setting(target.runtime or "", target.batch, target.threads)
    program = setting.program
    if installed:
        program.need(f"A latency in {setting.runtime}")
    return setting


def to_latency(
    costs: Costs,
    scores: Scores,
    target: Target,
    *,
    rules: Rules,
    dense: tuple[nn.Module, ExampleInputs],
    cut: Callable[[Mask], nn.Module],
    tolerance: float | None = None,
) -> LatencyOutcome:
    """Chooses which units stay so that one call of the network takes as long as asked for.

    1. The network's layers are measured in the runtime over a grid of widths (or read from the cache).
    2. The most score that this table allows within the target is solved for.
    3. The network that this leaves is cut, opened in the runtime and timed beside the dense one, in the same
       rounds. The limit of the table's time is corrected by what was measured so far (linearly between the two
       nearest measured networks), and 2. is solved again, until the measured time is within 1 % of the target, no
       new network comes out, or six networks were measured. The nearest one is taken of those that are at most the
       tolerance above the target, if there are any.

    Args:
        costs: Sizes of the network under any choice.
        scores: What the units are worth.
        target: The latency.
        rules: Which widths are allowed.
        dense: The network and its example inputs.
        cut: Cuts the network by a choice.
        tolerance: How far from the target, as a share of it, needs no note; :data:`TOLERANCE` by default.

    Raises:
        BudgetError: The target is below what the narrowest network takes, or above the dense one's.
        ExportError: The network cannot be exported to the runtime.
    """
    setting = setting_of(target)
    whole = DenseInRuntime(setting, *dense)
    start = whole.measure()
    share = target.latency if target.latency is not None else (target.latency_ms or 0.0) / start.dense_ms
    if share > 1:
        raise BudgetError(
            f"The target of {target.latency_ms:.3g} ms in {setting.runtime} is above what the dense network takes: "
            f"{start.dense_ms:.3g} ms."
        )
    found = widths(costs.groups.items, scores, rules)
    narrowest = np.ones(costs.groups.units, dtype=bool)
    for one in found:
        narrowest = one.cut(narrowest, len(one.kept) - 1)
    table, terms = layer_terms(costs, setting, narrowest, start.references)
    tolerance = TOLERANCE if tolerance is None else tolerance
    search = _Search(costs, terms, _picker(costs, scores, found, rules, terms), whole, cut, tolerance)
    keep, reached = search.run(share)
    record = _record(setting, start, reached, share, search)
    record |= {"score_kept": score_kept(found, keep), "tolerance": tolerance}
    return LatencyOutcome(keep, record, (*table.notes, in_words(record)))


def _picker(costs: Costs, scores: Scores, found: list[Widths], rules: Rules, terms: list[Term]) -> Picker:
    if rules.scope is None:
        return knapsack(costs, found, terms)
    steps = removal_order(costs.groups.items, scores.values, scope=rules.scope, round_to=rules.round_to,
                          min_units=rules.min_units, absolute=scores.absolute)  # fmt: skip
    return by_order(steps, costs.groups.units, lambda keep: predicted(costs, terms, keep))


class _Search:
    """Solves, measures and corrects; remembers what was measured."""

    def __init__(
        self, costs: Costs, terms: list[Term], pick: Picker, whole: DenseInRuntime, cut: Callable[[Mask], nn.Module],
        tolerance: float,
    ) -> None:  # fmt: skip
        self.costs, self.terms = costs, terms
        self.pick, self.whole, self.cut = pick, whole, cut
        self.tolerance = tolerance
        self.measured: dict[bytes, float] = {}

    def run(self, share: float) -> tuple[Mask, PairTimes]:
        points = [(1.0, self._ms(np.ones(self.costs.groups.units, dtype=bool)))]
        best: tuple[Mask, PairTimes] | None = None
        while len(self.measured) < _ROUNDS:
            keep = self._next(_limit(points, share), share)
            if keep is None:
                break
            found = self.whole.measure(None if keep.all() else self.cut(keep))
            self.measured[keep.tobytes()] = found.share
            LOG.info("Network %d: %.1f %% of the dense time", len(self.measured), 100 * found.share)
            points.append((found.share, self._ms(keep)))
            if best is None or self._miss(found.share, share) < self._miss(best[1].share, share):
                best = keep, found
            if abs(found.share - share) <= _ENOUGH * share:
                break
            if self._miss(found.share, share)[0] and (keep == self.pick.narrowest).all():
                raise BudgetError(self._below(share, found))
        assert best is not None
        return best

    def _miss(self, found: float, share: float) -> tuple[bool, float]:
        """Whether a network is too slow, and how far from the target: what is smaller is better."""
        return found > share * (1 + max(self.tolerance, _ENOUGH)), abs(found - share)

    def _next(self, limit: float, share: float) -> Mask | None:
        """The network at a limit; where it was measured, one a little further the way that is missing, if any."""
        for _ in range(_NUDGES):
            fitting = self.pick.within(limit)
            keep = self.pick.narrowest if fitting is None else fitting
            if keep.tobytes() not in self.measured:
                return keep
            off = share - self.measured[keep.tobytes()]
            if abs(off) <= _NEAR * share:
                break
            limit *= 1 + _NUDGE * np.sign(off)
        return None

    def _ms(self, keep: Mask) -> float:
        return predicted(self.costs, self.terms, keep)

    def _below(self, share: float, found: PairTimes) -> str:
        runtime = self.whole.setting.runtime
        return (
            f"The target of {share:.1%} of the dense network's time ({share * found.dense_ms:.3g} ms) in {runtime} "
            f"cannot be met: the narrowest network takes {found.share:.1%} ({found.ms:.3g} ms)."
        )


def _limit(points: list[tuple[float, float]], share: float) -> float:
    """The table's time for a measured share, linear between the two nearest measured networks, or to nothing.

    >>> _limit([(1.0, 10.0)], 0.5), _limit([(1.0, 10.0), (0.4, 5.0)], 0.7), _limit([(1.0, 10.0), (0.6, 5.0)], 0.3)
    (5.0, 7.5, 2.5)
    """
    above = min((p for p in points if p[0] >= share), default=max(points))
    below = max((p for p in points if p[0] < share), default=(0.0, 0.0))
    return below[1] + (above[1] - below[1]) * (share - below[0]) / (above[0] - below[0])


def _record(setting: Setting, start: PairTimes, reached: PairTimes, share: float, search: _Search) -> dict[str, Any]:
    return {**setting.facts(), "wanted": share, "reached": reached.share, "ms": reached.ms,
            "dense_ms": reached.dense_ms, "networks_measured": len(search.measured)}  # fmt: skip


def in_words(record: Mapping[str, Any]) -> str:
    """What a plan's record of a latency says, in words.

    Raises:
        PlanError: The record, which may come from a file, is damaged.
    """
    try:
        return _worded(record)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise PlanError(f"The plan's record of a latency is damaged: {type(error).__name__}: {error}.") from error


def _worded(record: Mapping[str, Any]) -> str:
    off = record["reached"] / record["wanted"] - 1
    tolerance = record.get("tolerance", TOLERANCE)  # plans of earlier versions have none
    missed = "" if off <= tolerance else f", which is {off:.0%} above the target: no allowed widths came nearer"
    below = f", which is {-off:.0%} below the target: nothing that was measured up to there keeps more score"
    missed = missed if off >= -tolerance else below
    many = f"batch {record['batch']}, {record['threads']} thread{'s' if record['threads'] > 1 else ''}"
    return (
        f"measured in {record['version']} ({many}): {record['ms']:.3g} ms against {record['dense_ms']:.3g} ms dense, "
        f"{record['reached']:.1%} where {record['wanted']:.1%} was asked for{missed}; keeps "
        f"{record['score_kept']:.1%} of the score"
    )
