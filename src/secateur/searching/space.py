"""What is searched: a ratio for every group, within bounds, and a criterion; and what a network costs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from secateur.budget.sensitivity import Sensitivity
from secateur.core.errors import BudgetError, InputError, UnknownNameError
from secateur.core.types import ExampleInputs
from secateur.cost.energy import energy
from secateur.cut.pruned import Pruned

__all__ = ["COSTS", "Space", "ratio_key"]

COSTS: Mapping[str, tuple[str, Callable[[Pruned, ExampleInputs], float]]] = {
    "macs": ("MACs per sample", lambda pruned, _: float(pruned.after.macs)),
    "params": ("parameters", lambda pruned, _: float(pruned.after.params)),
    "energy": ("energy per sample (estimate), mJ", lambda pruned, x: energy(pruned.model, x).estimated_mj),
}
"""What a network costs, by name: in words, and how it is found out."""

_SHARES = (0.85, 0.7, 0.55, 0.4, 0.25)
"""MACs that are left where the search begins with ratios from measured sensitivity."""


def ratio_key(group: str) -> str:
    """What the ratio of a group is called in a study."""
    return f"ratio {group}"


@dataclass(frozen=True)
class Space:
    """The room of a search.

    Attributes:
        groups: Names of the groups, in the order of ``prune(…, ratio=…)``: general names first.
        least: Smallest share of a group's units that goes.
        most: Largest.
        criteria: Names of the criteria that decide which go first.
    """

    groups: tuple[str, ...]
    least: float
    most: float
    criteria: tuple[str, ...]

    @classmethod
    def of(cls, groups: Sequence[str], bounds: Sequence[float], criteria: Sequence[str], known: Sequence[str]) -> Space:
        """The same, checked.

        Raises:
            InputError: Bounds that leave no room, no criterion, or one that is not known.
            BudgetError: Nothing can be pruned.
        """
        if len(bounds) != 2 or not 0 <= bounds[0] < bounds[1] < 1:
            raise InputError(
                "ratios are the smallest and the largest share of a group's units that goes, in [0, 1), the first "
                f"below the second, or there is nothing to search; got {tuple(bounds)!r}."
            )
        if not criteria:
            raise InputError(
                "criteria names at least one criterion, like ['l2'], or there is nothing to search; got none."
            )
        for name in criteria:
            if name not in known:
                raise UnknownNameError("criterion", name, known)
        if not groups:
            raise BudgetError("There is nothing to search: no group of the network can be pruned.")
        return cls(tuple(groups), float(bounds[0]), float(bounds[1]), tuple(dict.fromkeys(criteria)))

    def to_json(self) -> dict[str, Any]:
        """As it is noted in a study."""
        return {"groups": list(self.groups), "ratios": [self.least, self.most], "criteria": list(self.criteria)}

    def asked(self, trial: Any) -> tuple[dict[str, float], str]:
        """Ratios and criterion of a trial of Optuna's."""
        ratios = {name: trial.suggest_float(ratio_key(name), self.least, self.most) for name in self.groups}
        return ratios, trial.suggest_categorical("criterion", list(self.criteria))

    def seeds(self, sensitivity: Sensitivity) -> Iterator[dict[str, Any]]:
        """Where the search begins: ratios from sensitivity at several sizes, and the same ratio for all groups."""
        for share in _SHARES:
            try:
                found = sensitivity.ratios(macs=share)
            except BudgetError:  # more than was measured
                continue
            yield self._parameters(found)
        for step in range(1, 4):
            yield self._parameters(dict.fromkeys(self.groups, self.least + step / 4 * (self.most - self.least)))

    def _parameters(self, ratios: Mapping[str, float]) -> dict[str, Any]:
        within = {ratio_key(n): min(max(ratios.get(n, 0.0), self.least), self.most) for n in self.groups}
        return {**within, "criterion": self.criteria[0]}
