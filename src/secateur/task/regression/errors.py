"""How far predicted numbers are from the right ones, and the tasks that are judged by it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.task.batch import shapes
from secateur.task.numbered import NumberedTask

__all__ = ["MAE", "R2", "RMSE", "Errors", "Numbers", "standard"]

RMSE = Metric(better="lower", title="RMSE", name="rmse")
MAE = Metric(better="lower", title="MAE", name="mae")
R2 = Metric(better="higher", title="R²", name="r2")


class Errors:
    """Sums per target, float64 on the CPU: errors, squares, targets and their squares, and samples.

    Formulas: MAE = mean |ŷ − y|; RMSE = √mean (ŷ − y)², both over all targets, in their units; R² = 1 − Σ (ŷ − y)² /
    Σ (y − ȳ)², the mean over the targets, as scikit-learn's ``r2_score`` has it (1 or 0 for a target that is constant).
    """

    def __init__(self, std: Tensor) -> None:
        """``std``: float64, (targets,): what a standardised number is multiplied by to be in its unit."""
        self._std = std
        self.sums: Tensor | None = torch.zeros(5, len(std), dtype=torch.float64)

    def update(self, output: Any, target: Tensor, size: int) -> None:
        """Adds a batch of standardised numbers (B, targets)."""
        wanted = target.double().cpu()
        error = as_targets(output, target).double().cpu() - wanted
        assert self.sums is not None
        ones = torch.ones_like(wanted)
        self.sums += torch.stack([v.sum(0) for v in (error.abs(), error**2, wanted, wanted**2, ones)])

    def compute(self) -> dict[str, float]:
        """RMSE, MAE, R², and the mean loss (the mean square of standardised errors)."""
        assert self.sums is not None
        absolute, squares, total, energy, count = self.sums
        n = count.clamp(min=1)
        spread = energy - total**2 / n
        exact = torch.where(squares > 0, 0.0, 1.0).double()
        r2 = torch.where(spread > 1e-12 * n, 1 - squares / spread.clamp(min=1e-300), exact)
        return {
            "rmse": float((squares / n * self._std**2).mean().sqrt()),
            "mae": float((absolute / n * self._std).mean()),
            "r2": float(r2.mean()),
            "loss": float((squares / n).mean()),
        }


class Numbers(NumberedTask):
    """A task whose targets are numbers, standardised by the training part: what tables and series share."""

    metrics = (RMSE, MAE, R2)
    mean: Tensor
    std: Tensor
    """float64, (targets,): of the training part, in the targets' units."""

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean square of the errors of standardised numbers (B, targets)."""
        return F.mse_loss(as_targets(output, target).float(), target)

    def predictions(self, output: Any) -> Tensor:
        """The predicted numbers in their units: float32, (B, targets)."""
        numbers: Tensor = output.float()
        return numbers * self.std.to(numbers) + self.mean.to(numbers)

    def meter(self) -> Errors:
        """Sums of errors."""
        return Errors(self.std)


def as_targets(output: Any, target: Tensor) -> Tensor:
    """An output (B,) or (B, targets) in the targets' shape.

    Raises:
        InputError: It has another number of values; a loss would stretch one over the other.
    """
    if not isinstance(output, Tensor) or output.numel() != target.numel() or output.shape[:1] != target.shape[:1]:
        raise InputError(
            f"The network gives {shapes(output)} and the targets are of {shapes(target)}: wanted one number a target."
        )
    return output.reshape(target.shape)


def standard(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each column; 1 for columns that are constant."""
    std = values.std(0, correction=0)
    return values.mean(0), torch.where(std > 1e-12 * values.abs().amax(0).clamp(min=1e-300), std, 1.0)
