"""Regression on rows of a table: standardised inputs and targets, squared error, RMSE, MAE and R²."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from secateur.core.errors import DataError
from secateur.data.rows import RowSet, RowSplit, diabetes, load_rows
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.regression.errors import Numbers, standard
from secateur.task.sources import digest_of

__all__ = ["Regression"]


class Regression(Numbers):
    """Numbers that are predicted from rows of numbers.

    Inputs and targets are standardised by the mean and standard deviation of the training rows: the network is called
    with float32 (B, columns) and gives (B, targets). Metrics are in the targets' units.

    Args:
        data: From :func:`secateur.data.rows.load_rows` or :func:`secateur.data.rows.rows_of`.

    Attributes:
        data: The same.

    Raises:
        DataError: A target that is the same in all training rows.

    >>> from secateur.data.rows import diabetes
    >>> Regression(diabetes()).describe()
    'diabetes: 319 training, 35 validation, 88 test rows of 10 columns; predicts progression'
    """

    name = "regression"
    unit = "row"

    def __init__(self, data: RowSet) -> None:
        """Computes the statistics."""
        super().__init__()
        self.data = data
        targets = data.train.targets
        self.mean, self.std = standard(targets)
        self._mean, self._std = standard(data.train.inputs)
        for column, name in enumerate(data.targets):
            if bool((targets[:, column] == targets[0, column]).all()):
                raise DataError(f"{data.name}: {name} is {targets[0, column]:g} in all training rows; predict another.")

    def count(self, split: str) -> int:
        """Rows of a split."""
        return len(self._split(split))

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Standardised inputs (B, columns) and targets (B, targets), float32; nothing is drawn."""
        rows = self._split(split).take(index)
        return ((rows.inputs - self._mean) / self._std).float(), ((rows.targets - self.mean) / self.std).float()

    def options(self, model: str) -> dict[str, Any]:
        """Inputs and outputs of the built-in network."""
        return {"inputs": len(self.data.columns), "classes": len(self.data.targets)} if model == "mlp" else {}

    def describe(self) -> str:
        """One line about the data set."""
        counts = ", ".join(f"{self.count(s):,} {w}" for s, w in _WORDS)
        return (
            f"{self.data.name}: {counts} rows of {len(self.data.columns)} columns; predicts "
            f"{', '.join(self.data.targets)}"
        )

    def fingerprint(self, split: str) -> str:
        """SHA-256 of a split's rows as they were given."""
        rows = self._split(split)
        return digest_of((rows.inputs, rows.targets))

    def _split(self, split: str) -> RowSplit:
        found: RowSplit = getattr(self.data, split)
        return found


_WORDS = (("train", "training"), ("validation", "validation"), ("test", "test"))


def _open(request: Request, *, target: str | list[str] | None = None) -> Regression:
    held: dict[str, Any] = {"validation": request.validation, "seed": request.seed, "limit": request.limit}
    if request.name == "diabetes":
        return Regression(diabetes(**held))
    return Regression(load_rows(request.name, target=target, **held))


TASKS.add("regression", TaskKind(_open, "numbers from rows of a table: RMSE, MAE, R²", "diabetes", "mlp"))
