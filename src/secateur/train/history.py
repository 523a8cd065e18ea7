"""What a training run and an evaluation report: plain frozen records."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from secateur.core.errors import nearest
from secateur.core.metric import TOP1, Metric

__all__ = ["EpochRecord", "Evaluation", "History"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Every number has an attribute of its own too: ``train_loss``, ``val_loss``, ``val_top1``, ``val_map50``; that of a
    metric of the validation samples is ``None`` where there are none.

    Attributes:
        epoch: Counted from 1.
        train: Means over the epoch, while the weights were changing: ``loss``, and a metric that is cheap to have.
        validation: After the epoch: ``loss`` and every metric of the task; empty without validation samples.
        lr: Learning rate of the last step.
        seconds: Wall-clock time of training and validation.
        samples_per_second: Training samples through the network per second of training.
        extra: What the extras of the run noted (penalties, sparsity).
    """

    epoch: int
    train: Mapping[str, float]
    validation: Mapping[str, float]
    lr: float
    seconds: float
    samples_per_second: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> float | None:
        """A number of training (``train_…``) or validation (``val_…``)."""
        kind, _, key = name.partition("_")
        if name in ("train", "validation"):  # asked for before they are there, by a copy
            raise AttributeError(name)
        if kind == "train" and key in self.train:
            return self.train[key]
        if kind == "val" and key and not key.startswith("_"):
            if not self.validation:
                return None
            if key in self.validation:
                return self.validation[key]
        raise AttributeError(_unknown("An epoch", name, self._names()))

    def _names(self) -> list[str]:
        return [*(f"train_{key}" for key in self.train), *(f"val_{key}" for key in self.validation)]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; what is not finite is ``None`` there."""
        return {
            "epoch": self.epoch,
            "train": plain(self.train),
            "validation": plain(self.validation),
            "lr": self.lr,
            "seconds": self.seconds,
            "samples_per_second": self.samples_per_second,
            "extra": dict(self.extra),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> EpochRecord:
        """Reads what :meth:`to_dict` wrote."""
        read = {key: _numbers(record[key]) for key in ("train", "validation")}
        return cls(**{**record, **read})


@dataclass(frozen=True)
class History:
    """All epochs of a run, in order.

    Attributes:
        epochs: One record each.
        kept: The epoch whose weights the network ended with; 0 if it was not trained.
        metric: What the best epoch is chosen by.
    """

    epochs: tuple[EpochRecord, ...] = ()
    kept: int = 0
    metric: Metric = TOP1

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(record.seconds for record in self.epochs)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch that is best by the metric (the first of equals), the last without validation."""
        if not self.epochs:
            return None
        if any(not record.validation for record in self.epochs):
            return self.epochs[-1]
        best = self.epochs[0]
        for record in self.epochs[1:]:
            if self.metric.improves(self._value(record), self._value(best)):
                best = record
        return best

    def _value(self, record: EpochRecord) -> float | None:
        return record.validation.get(self.metric.name)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        epochs = [record.to_dict() for record in self.epochs]
        return {"epochs": epochs, "kept": self.kept, "metric": self.metric.to_dict()}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> History:
        """The history that :meth:`to_dict` was called on."""
        epochs = tuple(EpochRecord.from_dict(record) for record in content["epochs"])
        return cls(epochs, content["kept"], Metric.from_dict(content["metric"]))


@dataclass(frozen=True)
class Evaluation:
    """How well a network does on a split; every metric has an attribute of its own too (``top1``, ``map50``, ``loss``).

    Attributes:
        metrics: By name, as the task says them, and the mean ``loss`` where it has one.
        samples: How many.
        seconds_per_sample: Wall-clock time of the forward passes (in batches) per sample.
    """

    metrics: Mapping[str, float]
    samples: int
    seconds_per_sample: float

    def __getattr__(self, name: str) -> float:
        """A metric by name."""
        if name == "metrics" or name.startswith("__"):  # asked for before it is there, by a copy
            raise AttributeError(name)
        if name not in self.metrics:
            raise AttributeError(_unknown("An evaluation", name, self.metrics))
        return self.metrics[name]

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON; what is not finite is ``None`` there."""
        return {**plain(self.metrics), "samples": self.samples, "seconds_per_sample": self.seconds_per_sample}


def plain(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers that JSON has: what is not finite is ``None``."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in metrics.items()}


def _unknown(what: str, name: str, known: Any) -> str:
    close = nearest(name, known)
    offer = f"Did you mean {close[0]}?" if close else f"It has {', '.join(known)}."
    return f"{what} has no {name}. {offer}"
