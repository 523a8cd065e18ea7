"""What a training run and an evaluation report: plain frozen records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["EpochRecord", "Evaluation", "History"]


@dataclass(frozen=True)
class EpochRecord:
    """One epoch. Accuracies are in percent; validation values are ``None`` without validation images.

    Attributes:
        epoch: Counted from 1.
        train_loss: Mean over the epoch, while the weights were changing.
        train_top1: The same, in percent.
        val_loss: After the epoch.
        val_top1: After the epoch, in percent.
        lr: Learning rate of the last step.
        seconds: Wall-clock time of training and validation.
        images_per_second: Training images through the network per second of training.
        extra: What the extras of the run noted (penalties, sparsity).
    """

    epoch: int
    train_loss: float
    train_top1: float
    val_loss: float | None
    val_top1: float | None
    lr: float
    seconds: float
    images_per_second: float
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class History:
    """All epochs of a run, in order.

    Attributes:
        epochs: One record each.
        kept: The epoch whose weights the network ended with; 0 if it was not trained.
    """

    epochs: tuple[EpochRecord, ...] = ()
    kept: int = 0

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(record.seconds for record in self.epochs)

    @property
    def best(self) -> EpochRecord | None:
        """The epoch of the highest validation accuracy (the first of equals), the last without validation."""
        if not self.epochs:
            return None
        if any(record.val_top1 is None for record in self.epochs):
            return self.epochs[-1]
        return max(self.epochs, key=lambda record: (record.val_top1 or 0.0, -record.epoch))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return {"epochs": [record.to_dict() for record in self.epochs], "kept": self.kept}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> History:
        """The history that :meth:`to_dict` was called on."""
        return cls(tuple(EpochRecord(**record) for record in content["epochs"]), content["kept"])


@dataclass(frozen=True)
class Evaluation:
    """How well a network does on a split.

    Attributes:
        top1: Percent.
        top5: Percent; 100 where there are at most 5 classes.
        loss: Mean cross-entropy.
        images: How many.
        seconds_per_image: Wall-clock time of the forward passes (in batches) per image.
    """

    top1: float
    top5: float
    loss: float
    images: int
    seconds_per_image: float

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)
