"""What came of a search: the networks that were tried, and those that nothing beats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from secateur.core.metric import Metric
from secateur.core.tables import Shown, Table

__all__ = ["Searched", "Tried"]


@dataclass(frozen=True)
class Tried:
    """One network that was tried.

    Attributes:
        number: Of the trial.
        value: The metric on the samples that decide, without training.
        cost: What the network costs.
        criterion: What decided which units went first.
        ratios: Shares that went, by group.
        test: The task's metrics on its test split; only of networks on the front.
        artifact: Folder of the network; only on the front.
    """

    number: int
    value: float
    cost: float
    criterion: str
    ratios: Mapping[str, float]
    test: Mapping[str, float | None] = field(default_factory=dict)
    artifact: Path | None = None

    def to_json(self) -> dict[str, Any]:
        """What a file holds of it."""
        return {"number": self.number, "value": self.value, "cost": self.cost, "criterion": self.criterion,
                "ratios": dict(self.ratios)}  # fmt: skip


@dataclass(frozen=True, repr=False)
class Searched(Shown):
    """A search.

    Attributes:
        folder: Where everything lies: ``search.html``, ``search.json`` and, below ``front``, the artifacts.
        metric: The metric that decides.
        cost: Name of the cost.
        trials: All networks that were tried, in order.
        front: Those that nothing beats, the cheapest first.
        refused: How many trials made no network: a cut that could not be made.
    """

    folder: Path
    metric: Metric
    cost: str
    trials: tuple[Tried, ...]
    front: tuple[Tried, ...]
    refused: int = 0

    def table(self) -> Table:
        """The front."""
        rows = [
            (str(t.number), self.metric.words(t.value), f"{t.cost:,.6g}", t.criterion,
             self.metric.words(t.test.get(self.metric.name)))
            for t in self.front
        ]  # fmt: skip
        refused = f", {self.refused} without a network" if self.refused else ""
        headline = f"{len(self.trials) + self.refused} trials{refused}; {len(self.front)} networks that nothing beats"
        label = self.metric.label
        return Table(headline, ("Trial", label, self.cost, "Criterion", f"Test {label}"), rows, words=(3,))
