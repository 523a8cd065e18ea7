"""The next values of series: windows of several columns, squared error, RMSE, MAE and R²."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.data.series import SeriesSet, load_series, synthetic_series
from secateur.task.registry import TASKS, Request, TaskKind
from secateur.task.regression.errors import Numbers, standard
from secateur.task.sources import digest_of

__all__ = ["Series"]


class Series(Numbers):
    """The values of all columns that follow a window.

    Columns are standardised by the mean and standard deviation of the training part. The network is called with float32
    (B, columns, window) and gives (B, horizon · columns), the first step's columns first. No window reaches from one
    part into the next. Metrics are in the columns' units.

    Args:
        data: From :func:`secateur.data.series.load_series`, or made of tensors.
        window: Steps that the network sees.
        horizon: Steps that it predicts.

    Attributes:
        data: The same.

    Raises:
        InputError: A part to train on or to test with that is shorter than a window.

    >>> from secateur.data.series import synthetic_series
    >>> Series(synthetic_series(500), window=24).describe()
    'synthetic-series: 336 training, 16 validation, 76 test windows of 24 steps and 3 columns; predicts 1'
    """

    name = "series"
    unit = "window"

    def __init__(self, data: SeriesSet, *, window: int = 48, horizon: int = 1) -> None:
        """Computes the statistics."""
        super().__init__()
        if window < 1 or horizon < 1:
            raise InputError(f"Series(window=…, horizon=…) are steps, at least 1; got {window} and {horizon}.")
        self.data, self.window, self.horizon = data, window, horizon
        mean, std = standard(data.train)
        self._values = {s: (getattr(data, s) - mean) / std for s in ("train", "validation", "test")}
        self.mean, self.std = mean.repeat(horizon), std.repeat(horizon)
        for split in ("train", "test"):
            if not self.count(split):
                raise InputError(
                    f"The {split} part of {data.name} has {len(self._values[split])} steps, fewer than a window of "
                    f"{window} and what follows it ({horizon}): give a smaller window."
                )

    def count(self, split: str) -> int:
        """Windows of a split."""
        return max(0, len(self._values[split]) - self.window - self.horizon + 1)

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Windows (B, columns, window) and what follows (B, horizon · columns), float32; nothing is drawn."""
        steps = index[:, None] + torch.arange(self.window + self.horizon)
        found = self._values[split][steps].float()
        return found[:, : self.window].transpose(1, 2).contiguous(), found[:, self.window :].flatten(1)

    def options(self, model: str) -> dict[str, Any]:
        """Columns, steps and outputs of the built-in networks."""
        columns = len(self.data.columns)
        if model == "conv_series":
            return {"channels": columns, "window": self.window, "classes": columns * self.horizon}
        return {"inputs": columns * self.window, "classes": columns * self.horizon} if model == "mlp" else {}

    def settings(self) -> dict[str, Any]:
        """How many windows of which length."""
        return {**super().settings(), "window": self.window, "horizon": self.horizon}

    def describe(self) -> str:
        """One line about the data set."""
        words = (("train", "training"), ("validation", "validation"), ("test", "test"))
        counts = ", ".join(f"{self.count(s):,} {w}" for s, w in words)
        return (
            f"{self.data.name}: {counts} windows of {self.window} steps and {len(self.data.columns)} columns; predicts "
            f"{self.horizon}"
        )

    def fingerprint(self, split: str) -> str:
        """SHA-256 of a split's values."""
        return digest_of(getattr(self.data, split))


def _open(request: Request, **options: Any) -> Series:
    if request.name == "synthetic":
        return Series(synthetic_series(request.limit or 2000, validation=request.validation), **options)
    return Series(load_series(request.name, validation=request.validation, limit=request.limit), **options)


TASKS.add("series", TaskKind(_open, "the next values of series: RMSE, MAE, R²", "synthetic", "conv_series"))
