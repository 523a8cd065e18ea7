"""Sensitivity: what the loss of units does to a network, group by group, and the ratios that come of it.

Source of the method: Li et al., *Pruning Filters for Efficient ConvNets*, https://arxiv.org/abs/1608.08710, figure 2b:
one layer at a time is cut, everything else stays, and nothing is trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from secateur.budget.aim import fits
from secateur.budget.curves import FORMAT, Curve, read_fields
from secateur.budget.level import Removals, at_level, envelope
from secateur.core import arguments, files
from secateur.core.errors import BudgetError, DataError, InputError, first_line
from secateur.core.metric import Metric
from secateur.core.tables import Shown, Table
from secateur.core.types import ExampleInputs, Target
from secateur.cost.counts import Costs
from secateur.graph.groups import solve
from secateur.graph.views import labelled

__all__ = ["ERROR", "Curve", "Sensitivity", "read_ratios"]

ERROR = Metric(better="lower", title="Output error", name="output_error")
"""What is measured where nobody scores the network: ‖y − y_dense‖² / ‖y_dense‖²."""


@dataclass(frozen=True, repr=False)
class Sensitivity(Shown):
    """The curves of all groups, and the ratios that come of them.

    Attributes:
        curves: One for each group, in the order of execution.
        metric: What the values are, and which are better: the output error, a task's leading metric, or a score.
        dense: The value of the whole network.
        criterion: What decided which units of a group go first.
        samples: Samples that the values are of; 0 for a score, which looks at what it likes.
        repaired: Whether every cut was repaired (:func:`secateur.recover`) before it was measured.
        notes: What the user should know.
        target: What :attr:`chosen` was made for, as ``{"macs": 0.5}``; empty where nothing was chosen.
        chosen: Ratios by group, as they are saved; empty where nothing was chosen.
        removals: What ratios are worked out with; a file does not hold it, see :meth:`on`.
    """

    curves: tuple[Curve, ...]
    metric: Metric = ERROR
    dense: float = 0.0
    criterion: str = "l2"
    samples: int = 0
    repaired: bool = False
    notes: tuple[str, ...] = ()
    target: Mapping[str, float] = field(default_factory=dict)
    chosen: Mapping[str, float] = field(default_factory=dict)
    removals: Removals | None = field(default=None, repr=False, compare=False)

    def losses(self, curve: Curve) -> tuple[float, ...]:
        """By how much the values of a curve are worse than that of the whole network."""
        sign = 1 if self.metric.better == "lower" else -1
        return tuple(sign * (value - self.dense) for value in curve.values)

    @arguments.checked
    def ratios(
        self,
        *,
        macs: float | None = None,
        params: float | None = None,
        energy: float | None = None,
        size: float | None = None,
        round_to: int = 1,
    ) -> dict[str, float]:
        """Ratios by group with which the network meets a target, for ``secateur.prune(…, ratio=…)``.

        Rule: a group's loss at a share is the worst so far on its curve, on straight lines between the measured points,
        and 0 where nothing is removed. From every group goes the largest share whose loss is at most ℓ, in whole
        units; ℓ is the smallest level, the same for all, at which the network meets the target (by bisection). Nothing
        goes beyond the largest share that was measured. Losses of several groups do not add up to that of all of them
        cut together: the level divides a cut among the groups, it does not foretell its result.

        Args:
            macs: Multiply-accumulates to keep: a share up to 1, or a count above 1.
            params: Parameters to keep, the same.
            energy: Energy (by a model) to keep, the same.
            size: Bytes of the weights file to keep, the same.
            round_to: Widths that are left are multiples of this.

        Returns:
            Shares to remove, by group; the general names first, as ``ratio`` wants them. Without a target, those that
            were saved with it.

        Raises:
            InputError: Several targets; none, and none was saved; or the network is not known (see :meth:`on`).
            BudgetError: The target is out of reach of what was measured.
        """
        every = {"params": params, "macs": macs, "energy": energy, "size": size}
        given = {name: value for name, value in every.items() if value is not None}
        if not given and self.chosen:
            return dict(self.chosen)
        if len(given) != 1:
            raise InputError(
                f"Give one target, of {', '.join(every)}: a share to keep up to 1, or a count; got "
                f"{' and '.join(given) or 'none'}."
            )
        if round_to < 1:
            raise InputError(f"round_to is at least 1; got {round_to!r}.")
        if self.removals is None:
            raise InputError(
                "The network behind these curves is not known: a file does not hold it. Call "
                "sensitivity.on(model, example_inputs).ratios(…), or save the ratios with the curves: "
                "save(path, macs=0.5)."
            )
        if not self.curves:
            raise BudgetError(
                "There is no curve to work ratios out from: nothing was measured, or nothing gave a number."
            )
        points = {curve.name: envelope(curve.ratios, self.losses(curve)) for curve in self.curves}
        goal = Target(params=params, macs=macs, energy=energy, size=size)
        removed = at_level(points, self.removals, goal, round_to)
        return _general_first({c.name: removed[c.name] / c.units for c in self.curves}, self.removals.costs)

    def aimed(self, **target: float | None) -> Sensitivity:
        """The same, with the ratios that meet a target (as for :meth:`ratios`), which :meth:`save` then writes too."""
        given = {name: value for name, value in target.items() if value is not None}
        found = self.ratios(**given)  # type: ignore[arg-type]
        return replace(self, target=given or self.target, chosen=found)

    @arguments.checked
    def on(self, model: nn.Module, example_inputs: ExampleInputs) -> Sensitivity:
        """The same, able to work out ratios: of a file, which does not hold the network.

        Where units of a group differ in size (channel shuffles), counts are of the first ones, not of those with the
        lowest scores.

        Raises:
            InputError: A network with other groups.
        """
        groups = solve(labelled(model, example_inputs)[0])
        sizes = {group.name: len(group) for group in groups.items}
        for curve in self.curves:
            if sizes.get(curve.name) != curve.units:
                got = f"{sizes[curve.name]} units" if curve.name in sizes else "no such group"
                raise InputError(
                    f"These are curves of another network: {curve.name!r} has {curve.units} units there, here there "
                    f"{'are' if curve.name in sizes else 'is'} {got}."
                )
        wanted = {curve.name for curve in self.curves}
        even = {k: np.zeros(len(g)) for k, g in enumerate(groups.items) if g.name in wanted}
        return replace(self, removals=Removals(Costs(groups), even))

    # ------------------------------------------------------------------------------------------------- files

    def to_json(self) -> str:
        """JSON text; ``ratios`` is what a recipe takes."""
        head: dict[str, Any] = {"format": FORMAT, "ratios": dict(self.chosen), "target": dict(self.target)}
        head["metric"] = self.metric.to_dict()
        kept = ("dense", "criterion", "samples", "repaired")
        head |= {name: getattr(self, name) for name in kept} | {"notes": list(self.notes)}
        curves = [curve.to_dict() for curve in self.curves]
        return json.dumps(head | {"curves": curves}, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    @arguments.checked
    def save(
        self,
        path: str | PathLike[str],
        *,
        macs: float | None = None,
        params: float | None = None,
        energy: float | None = None,
        size: float | None = None,
    ) -> Path:
        """Writes :meth:`to_json` in one step; with a target, the ratios that meet it are in the file.

        What is at ``path`` is replaced.

        Raises:
            InputError: The file cannot be written; or what :meth:`ratios` raises.
        """
        target = {"macs": macs, "params": params, "energy": energy, "size": size}
        found = self.aimed(**target) if any(v is not None for v in target.values()) else self
        try:
            files.write_text(Path(path), found.to_json())
        except OSError as error:
            raise InputError(f"Cannot write {path}: {error.strerror or first_line(error)}.") from error
        return Path(path)

    @classmethod
    @arguments.checked
    def read(cls, path: str | PathLike[str]) -> Sensitivity:
        """Reads what :meth:`save` wrote.

        Raises:
            DataError: Names a file that is missing, no plain file, too large, damaged, or of something else.
        """
        return cls(**read_fields(path))

    # ------------------------------------------------------------------------------------------------- shown

    def table(self) -> Table:
        """A row for each group: its units, and the values, share by share."""
        columns, rows = self.rows()
        return Table(self.headline, columns, rows, words=(0,), notes=[f"note: {note}" for note in self.notes])

    @property
    def headline(self) -> str:
        """One line: what was measured, of how many groups."""
        many = f"{len(self.curves)} group{'s' * (len(self.curves) != 1)}"
        whole = "" if self.metric == ERROR else f", {self.metric.words(self.dense)} with all units"
        of = f" on {self.samples:,} samples" if self.samples else ""
        how = ", each cut repaired" if self.repaired else ""
        unit = " (%)" if self.metric.percent(self.dense) is not None else ""
        return f"{self.metric.label}{unit} without units of one group, {many}{of}{whole}{how}"

    @property
    def aim(self) -> str:
        """What the chosen ratios are for, in words: ``50% of the MACs``; empty where nothing was chosen."""
        for name, value in self.target.items():
            words = {"macs": "MACs", "params": "parameters", "size": "bytes of the weights"}.get(name, name)
            return f"{value:.0%} of the {words}" if value <= 1 else f"{value:,.0f} {words.partition(' of ')[0]}"
        return ""

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Headings and cells: a column for every share that was asked for, as nearly as the groups' units allow."""
        longest = max(self.curves, key=lambda c: len(c.removed), default=None)
        heads = [] if longest is None else [f"−{share:.0%}" for share in longest.ratios]
        chosen = bool(self.chosen)
        body = []
        for curve in self.curves:
            cells = self._nearest(curve, () if longest is None else longest.ratios)
            last = [f"{self.chosen.get(curve.name, 0.0):.0%}"] if chosen else []
            body.append([curve.name, f"{curve.units:,}", *cells, *last])
        return ["Group", "Units", *heads, *(["Ratio"] if chosen else [])], body

    def _nearest(self, curve: Curve, shares: Sequence[float]) -> list[str]:
        """A curve's values in the columns of the shares nearest to its own; a dash where a small group has none."""
        cells = ["–"] * len(shares)
        for ratio, value in zip(curve.ratios, curve.values, strict=True):
            place = min(range(len(shares)), key=lambda k: abs(shares[k] - ratio))
            cells[place] = self.shown(value)
        return cells

    def shown(self, value: float) -> str:
        """A value in as many digits as mean something: percentages to a tenth, other numbers to three digits."""
        percent = self.metric.percent(value)
        if percent is not None:
            return f"{percent:.1f}"
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def read_ratios(path: str | PathLike[str]) -> dict[str, float]:
    """The ratios that a file of :meth:`Sensitivity.save` holds: what a recipe's ``ratio: sensitivity.json`` means.

    Raises:
        DataError: What :meth:`Sensitivity.read` raises, or a file of curves alone.
    """
    found = Sensitivity.read(path).chosen
    if not found:
        raise DataError(
            f"{path} holds curves and no ratios. Say what is to be kept when it is made: "
            "`secateur sensitivity MODEL --macs 50% --out FILE`, or save(path, macs=0.5)."
        )
    return dict(found)


def _general_first(ratios: Mapping[str, float], costs: Costs) -> dict[str, float]:
    """The ratios in an order in which every group gets its own where the last name that fits counts.

    The name of a group may fit others too (a module whose inner layers belong to them); those that were not measured
    stay whole.
    """
    groups = {group.name: group for group in costs.groups.items}

    def reach(name: str) -> set[str]:
        return {other for other, group in groups.items() if fits(group, name)}

    fitted = {other for name in ratios for other in reach(name)}
    every = {**dict.fromkeys((name for name in groups if name in fitted), 0.0), **ratios}
    order = sorted(every, key=lambda name: -len(reach(name)))
    return {name: round(every[name], 6) for name in order}
