"""Accuracy and loss of a network on a split."""

from __future__ import annotations

from typing import Literal

from torch import nn

from secateur.data.types import AnySplit, DataSet
from secateur.train.history import Evaluation


def evaluate(
    model: nn.Module,
    split: AnySplit,
    *,
    data: DataSet,
    batch_size: int = 500,
    precision: Literal["32", "bf16"] = "32",
    device: str | None = None,
) -> Evaluation:
    """Evaluates ``model`` on ``split``."""
    raise NotImplementedError
