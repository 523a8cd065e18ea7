"""Learning rates as a pure function of the step, so that a resumed run needs no schedule state."""

from __future__ import annotations

import math

from secateur.train.config import TrainConfig

__all__ = ["learning_rate"]


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The rate of optimiser step ``step`` (from 0) of ``steps``.

    ``onecycle`` (Smith, arXiv:1708.07120) rises from lr/25 to lr and falls to lr/250,000, both along a
    cosine; the others rise linearly during the warm-up and then follow their curve to the end.

    >>> config = TrainConfig(lr=1.0, schedule="cosine")
    >>> [round(learning_rate(config, step, 4), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    share = config.warmup if config.warmup is not None else (0.3 if config.schedule == "onecycle" else 0.0)
    rising = share * steps
    if config.schedule == "onecycle":
        return config.lr * _one_cycle(step, steps, rising)
    if step < rising:
        return config.lr * (step + 1) / (math.floor(rising) + 1)
    return config.lr * _curve(config, (step - rising) / max(steps - rising, 1))


def _one_cycle(step: int, steps: int, rising: float) -> float:
    start, end = 1 / 25, 1 / 250_000
    if step < rising:
        return 1 + (start - 1) * _cosine(step / rising)
    return end + (1 - end) * _cosine((step - rising) / max(steps - 1 - rising, 1))


def _cosine(progress: float) -> float:
    """1 at progress 0, 0 at progress 1."""
    return 0.5 + 0.5 * math.cos(math.pi * min(max(progress, 0.0), 1.0))


def _curve(config: TrainConfig, progress: float) -> float:
    if config.schedule == "cosine":
        return _cosine(progress)
    if config.schedule == "warm_restarts":
        return _cosine(progress * config.restarts % 1)
    if config.schedule == "step":
        return float(config.gamma ** sum(progress >= at for at in config.milestones))
    return 1.0
