"""Training and evaluation on CPU, GPU or several processes, with exact resume."""

from __future__ import annotations

from secateur.train.adapters import Adapters
from secateur.train.config import TrainConfig
from secateur.train.distill import Distill
from secateur.train.evaluate import evaluate
from secateur.train.extras import Extra
from secateur.train.fit import fit
from secateur.train.history import EpochRecord, Evaluation, History
from secateur.train.loop import TrainingError

__all__ = [
    "Adapters",
    "Distill",
    "EpochRecord",
    "Evaluation",
    "Extra",
    "History",
    "TrainConfig",
    "TrainingError",
    "evaluate",
    "fit",
]
