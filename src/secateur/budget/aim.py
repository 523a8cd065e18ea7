"""What a cut aims at, and the choice of units that comes of it: by ratio, by count or by measured time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from secateur.budget.blocks import by_parameters
from secateur.budget.choose import Chosen, check_rules, check_tolerance, choose, first_few, reached
from secateur.budget.deviations import below_mean
from secateur.budget.earlier import LATENCY, gone_before, latency_of_dense, of_dense
from secateur.budget.latency import Rules, setting_of, to_latency
from secateur.budget.step import AUTO, step_of
from secateur.core.errors import InputError, UnknownNameError
from secateur.core.patterns import checked, covered, paths
from secateur.core.plan import Plan
from secateur.core.types import ExampleInputs, Target
from secateur.cost.counts import Costs
from secateur.criteria.scoring import Scores
from secateur.graph.groups import Group, Groups

__all__ = ["RATIOS_OF", "REFERENCES", "Aim", "Choice", "Ratio", "by_group", "fits", "target_of"]

Mask = NDArray[np.bool_]

Ratio = float | Mapping[str, float]
"""The share of the units that is removed; or one per name or pattern of modules, others being left alone."""

REFERENCES = ("current", "dense")

RATIOS_OF = ("units", "params")


@dataclass(frozen=True)
class Choice:
    """Which units stay, and what is to be said of it.

    Attributes:
        keep: Which units stay, shape (units,), bool.
        notes: What the user should know.
        record: What the plan notes of the way that was chosen: the scope, and what a latency has measured.
    """

    keep: Mask
    notes: tuple[str, ...] = ()
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Aim:
    """How much is to go, and by which rules: one ratio, one threshold, or one target.

    Attributes:
        ratio: Share of the units to **remove**, in [0, 1); or one per module pattern, of which the last that fits
            a layer counts; layers that none fits stay as they are.
        ratio_of: What ``ratio`` is a share of: ``units``, or the parameters (``params``) of every block, for scope
            ``block`` (see :func:`~secateur.budget.blocks.by_parameters`).
        std: A threshold instead: units that score more than so many standard deviations below the mean of their group
            go (see :func:`~secateur.budget.deviations.below_mean`).
        target: What is to be **kept** of parameters, MACs, energy, bytes or measured time.
        of: What the shares are of: the network as it is (``current``), or before its first cut (``dense``).
        scope: ``local``, ``global`` or ``block``; ``None`` for what the criterion says (mostly ``local``), and with a
            latency for the widths that keep the most score.
        round_to: Widths that are left are multiples of this; see :func:`~secateur.budget.step_of`.
        min_units: Units that every group keeps at least.
        uniform: Whether layers of a kind stay of one width when a target is reached with scope ``local``: what
            configurations can say that know one width for all layers.
        tolerance: How far below the target, as a share of it, needs no note: 0.01 by default. A measured latency may
            also be above it by as much: 0.05 by default.
        exact: Whether to refuse what is further below a counted target than that.
    """

    ratio: Ratio | None = None
    target: Target | None = None
    ratio_of: str = "units"
    std: float | None = None
    of: str = "current"
    scope: str | None = None
    round_to: int | str | None = None
    min_units: int = 1
    uniform: bool = False
    tolerance: float | None = None
    exact: bool = False

    def __post_init__(self) -> None:
        """Refuses what cannot be aimed at, before anything that takes time."""
        given = [f"{name}={value!r}" for name, value in (("ratio", self.ratio), ("std", self.std)) if value is not None]
        given += [] if self.target is None else ["a target"]
        if len(given) != 1:
            raise InputError(_one_aim(given))
        if self.of not in REFERENCES:
            raise UnknownNameError("reference network", self.of, REFERENCES, argument="of")
        if self.target is not None and self.target.measure == "metric":
            raise InputError(
                "Target(metric=…) is judged on a task: call secateur.prune_to(model, inputs, target=…, data=task)."
            )
        if self.target is not None and self.target.measured:
            setting_of(self.target, installed=False)
        check_rules(self.scope or "local", self.step, self.min_units)
        check_tolerance(self.tolerance)
        if self.tolerance is not None and self.target is None:
            raise InputError(f"tolerance={self.tolerance!r} is of a target (macs, params …); a ratio has none.")
        self._check_std()
        shares = self.ratio if isinstance(self.ratio, Mapping) else {"": self.ratio}
        for name, share in shares.items():
            if share is not None and not 0 <= share < 1:
                where = f" for {name!r}" if name else ""
                raise InputError(
                    f"ratio is the share of units to remove, in [0, 1); got {share!r}{where}. What is kept is said by "
                    "macs, params, size, energy or latency."
                )
        if isinstance(self.ratio, Mapping) and self.scope not in (None, "local"):
            raise InputError(f"A ratio per layer is local; got scope={self.scope!r} with it. Leave scope out.")
        self._check_ratio_of()

    def _check_std(self) -> None:
        if self.std is None:
            return
        if not -inf < self.std < inf:
            raise InputError(f"std is how many standard deviations below the mean, 1 for instance; got {self.std!r}.")
        if self.scope not in (None, "local"):
            raise InputError(
                f"std is a threshold of every group by itself; got scope={self.scope!r} with it. Leave scope out."
            )

    def _check_ratio_of(self) -> None:
        if self.ratio_of not in RATIOS_OF:
            raise UnknownNameError("amount that a ratio is of", self.ratio_of, RATIOS_OF, argument="ratio_of")
        if self.ratio_of == "units":
            return
        if self.ratio is None or isinstance(self.ratio, Mapping) or self.scope != "block":
            got = "no ratio" if self.ratio is None else "a ratio per layer" if isinstance(self.ratio, Mapping) else (
                f"scope={self.scope!r}")  # fmt: skip
            raise InputError(
                f"ratio_of='params' goes with one ratio and scope='block', and takes that share of every block's "
                f"parameters; got {got}. What the whole network keeps is said by params."
            )

    def need(self) -> None:
        """Asks for the packages of a latency.

        Raises:
            InputError: One is missing; the message holds the install command.
        """
        if self.target is not None and self.target.measured:
            setting_of(self.target)

    @property
    def step(self) -> int:
        """What widths are multiples of."""
        return step_of(self.round_to, self.target)

    @property
    def measure(self) -> str | None:
        """What is counted: ``macs``, ``params`` …; ``None`` for a ratio and for a latency, which is measured."""
        return None if self.target is None or self.target.measured else self.target.measure

    @property
    def record(self) -> dict[str, Any]:
        """What a plan notes of it."""
        ratio = dict(self.ratio) if isinstance(self.ratio, Mapping) else self.ratio
        more: dict[str, Any] = {} if self.ratio_of == "units" else {"ratio_of": self.ratio_of}
        more |= {} if self.std is None else {"std": self.std}
        return {"ratio": ratio, "of": self.of, "scope": self.scope, "round_to": self.step,
                "target": None if self.target is None else self.target.given, **more}  # fmt: skip

    def choose(
        self,
        costs: Costs,
        scores: Scores,
        *,
        earlier: Plan | None = None,
        dense: tuple[nn.Module, ExampleInputs],
        cut: Callable[[Mask], nn.Module],
    ) -> Choice:
        """Chooses which units stay.

        Args:
            costs: Exact costs of the network under any choice.
            scores: What the units are worth.
            earlier: The cuts so far, for shares of the dense network.
            dense: The network and its example inputs, which a latency measures.
            cut: Cuts the network by a choice, which a latency measures too.

        Raises:
            InputError: A ratio for a layer that is not there.
            BudgetError: The aim is out of reach; says how far one can go.
            ExportError: The network cannot be exported to the runtime of a latency.
        """
        earlier = earlier if self.of == "dense" else None
        if self.target is not None and self.target.measured:
            rules = Rules(self.scope, self.step, self.min_units, fine=self.round_to in (None, AUTO))
            wanted = latency_of_dense(self.target, earlier)
            met = to_latency(costs, scores, wanted, rules=rules, dense=dense, cut=cut, tolerance=self.tolerance)
            return Choice(met.keep, (*met.notes, *arbitrary(scores, costs.groups, met.keep)), {LATENCY: met.record})
        if self.std is not None or self.ratio_of == "params":
            met_by = self._by_rule(costs, scores, earlier)
            said = (*met_by.notes, *arbitrary(scores, costs.groups, met_by.keep))
            held = {"held": list(met_by.held)} if met_by.held else {}
            return Choice(met_by.keep, said, {"scope": self.scope or "local", **held})
        goal = None if self.target is None else of_dense(self.target, earlier)
        ratio: float | Mapping[int, float] | None
        notes: tuple[str, ...] = ()
        if isinstance(self.ratio, Mapping):
            scope, (ratio, notes) = "local", by_group(self.ratio, costs.groups, scores.values)
        else:
            scope, ratio = self.scope or scores.scope, self.ratio
        found = choose(costs, scores.values, ratio=ratio, target=goal, scope=scope, round_to=self.step,
                       min_units=self.min_units, gone=gone_before(earlier, costs.groups.items),
                       absolute=scores.absolute, uniform=self.uniform, tolerance=self.tolerance,
                       exact=self.exact)  # fmt: skip
        said = (*notes, *reached(costs, found.keep, goal), *found.notes)
        return Choice(found.keep, (*said, *arbitrary(scores, costs.groups, found.keep)), {"scope": scope})

    def _by_rule(self, costs: Costs, scores: Scores, earlier: Plan | None) -> Chosen:
        """What goes by a threshold, or by a share of every block's parameters."""
        if self.std is not None:
            return below_mean(costs, scores.values, self.std, round_to=self.step, min_units=self.min_units)
        assert isinstance(self.ratio, float | int)
        return by_parameters(costs, scores.values, self.ratio, round_to=self.step, min_units=self.min_units,
                             absolute=scores.absolute, earlier=earlier)  # fmt: skip


def arbitrary(scores: Scores, groups: Groups, keep: Mask) -> tuple[str, ...]:
    """A note on the groups whose units all had the same score, where some of them go: which ones, no score says."""
    cut = [number for number in scores.values if not keep[groups.items[number].units].all()]
    tied = [number for number in cut if len(groups.items[number]) > 1 and _equal(scores.values[number])]
    if not tied:
        return ()
    names = [groups.items[number].name for number in tied]
    what = "every group that is cut" if len(tied) == len(cut) else first_few(names)
    return (f"all scores are equal in {what}, so it is arbitrary which of their units go: the first ones were taken",)


def _equal(values: NDArray[np.float64]) -> bool:
    return bool(np.ptp(values) <= 1e-9 * np.abs(values).max())


def target_of(
    ratio: Ratio | None,
    target: Target | None,
    kept: Mapping[str, float | None],
    runtime: str | None,
    std: float | None = None,
) -> Target | None:
    """The target that plain arguments name, ``None`` where they name a ratio or a threshold; exactly one of them may.

    Args:
        ratio: Share of the units to remove.
        target: A target that is one already.
        kept: What is kept, by name: a share up to 1, or an amount above 1 (of a latency, milliseconds).
        runtime: Where a latency is measured.
        std: A threshold in standard deviations.

    Raises:
        InputError: None of them, several, or a runtime without a latency.

    >>> target_of(None, None, {"macs": 0.5, "params": None}, None).given
    {'macs': 0.5}
    """
    every = {"ratio": ratio, "std": std, **kept, "target": target}
    given: dict[str, Any] = {name: value for name, value in every.items() if value is not None}
    if len(given) != 1:
        said = (f"Target({value.measure}=…)" if isinstance(value, Target) else f"{name}={value!r}"
                for name, value in given.items())  # fmt: skip
        raise InputError(_one_aim(list(said)))
    (name, value), *_ = given.items()
    if runtime is not None and name != "latency":
        raise InputError(
            f"runtime={runtime!r} says where a latency is measured: give latency= with it, a share up to 1 or "
            "milliseconds above 1."
        )
    if name == "latency":
        return Target(**{name if value <= 1 else "latency_ms": value}, runtime=runtime)
    return target if name in ("ratio", "std", "target") else Target(**{name: value})


def _one_aim(given: list[str]) -> str:
    return (
        "Give one aim: ratio, which is the share of the units that is removed; or std, below how many standard "
        "deviations under the mean of their group units go; or one of params, macs, energy, size and latency, which "
        "are the share (up to 1) or the amount (above 1) that is kept; or target=Target(…). Got "
        f"{' and '.join(given) or 'none of them'}."
    )


def by_group(
    ratio: Mapping[str, float], groups: Groups, numbers: Iterable[int]
) -> tuple[dict[int, float], tuple[str, ...]]:
    """The ratio of every group: that of the last pattern that fits one of the layers that make its channels.

    Args:
        ratio: Shares to remove, by pattern, or by the name of a group.
        groups: The groups of the network.
        numbers: Those of them that may be cut.

    Returns:
        The ratios by number, and a note for each pattern that has no say.

    Raises:
        UnknownNameError: A pattern that fits no module or parameter.
        InputError: None of the patterns fits a layer whose channels may go.
    """
    named = {group.name for group in groups.items}  # such a name may hold what a pattern means something by: fc[0]
    patterns = [pattern for pattern in ratio if pattern not in named]
    checked(patterns, dict.fromkeys(path for name in groups.flow.tensors for path in paths(name)), "ratio")
    found: dict[int, float] = {}
    idle = dict.fromkeys(ratio)
    for number in numbers:
        fitting = [pattern for pattern in ratio if fits(groups.items[number], pattern)]
        for pattern in fitting:
            idle.pop(pattern, None)
            found[number] = ratio[pattern]
    if not found:
        raise InputError(f"None of the layers that ratio names ({', '.join(ratio)}) has channels that may go.")
    return found, tuple(f"the ratio for {pattern!r} removes nothing: no channels of it may go" for pattern in idle)


def fits(group: Group, pattern: str) -> bool:
    """Whether a pattern fits one of the layers that make a group's channels, or is the group's name."""
    made = (member.parameter for member in group.members if not member.consumes)
    return pattern == group.name or any(covered(name, [pattern]) for name in made)
