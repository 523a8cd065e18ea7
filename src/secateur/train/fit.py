"""The training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from torch import nn

from secateur.data.types import DataSet
from secateur.train.config import TrainConfig
from secateur.train.history import EpochRecord, History


def fit(
    model: nn.Module,
    data: DataSet,
    config: TrainConfig | None = None,
    *,
    folder: str | Path | None = None,
    seed: int = 0,
    name: str = "train",
    on_epoch: Callable[[EpochRecord], None] | None = None,
    progress: bool | None = None,
) -> History:
    """Trains ``model`` in place."""
    raise NotImplementedError
