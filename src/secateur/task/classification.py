"""Classification of images of one size: the scores of classes, their cross-entropy, top-1 and top-5 accuracy.

Images stay bytes until they are on the device: crops, mirror images and normalisation are done there on whole batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import TOP1, TOP5, Metric
from secateur.data.preprocessing import Preprocessing
from secateur.data.types import AnySplit, DataSet
from secateur.task.augment import Draws, crop_and_flip
from secateur.task.base import Epoch, Task
from secateur.task.batch import Batch
from secateur.task.plan import plan_epoch, steps_per_epoch

__all__ = ["Classification", "Hits", "as_task", "logits_of", "soft_cross_entropy"]


class Classification(Task):
    """A data set of images with one label each.

    Args:
        data: From :func:`secateur.data.load`, or made of tensors.

    Attributes:
        data: The same.
    """

    name = "classification"
    unit = "image"
    mirrors = True
    running: ClassVar[Metric | None] = TOP1

    def __init__(self, data: DataSet) -> None:
        """Nothing is computed yet."""
        super().__init__(metrics=(TOP1, TOP5), name="classification")
        self.data, self.classes, self.outputs = data, tuple(data.classes), len(data.classes)

    def image_preprocessing(self) -> Preprocessing | None:
        """Cropped to the middle and normalised, where the data are images of 8 bits."""
        return Preprocessing.of(self.data)

    def loss(self, output: Any, target: Any) -> Tensor:
        """Cross-entropy of scores (B, classes) and labels (B,) or class probabilities (B, classes)."""
        return F.cross_entropy(logits_of(output).float(), target)

    def training_loss(self, smoothing: float = 0.0) -> Callable[[Any, Any], Tensor | None]:
        """Cross-entropy with smoothed labels."""
        return lambda output, target: F.cross_entropy(logits_of(output).float(), target, label_smoothing=smoothing)

    def predictions(self, output: Any) -> Tensor:
        """The scores of the classes, float32, (B, classes)."""
        return logits_of(output).float()

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """T²·KL(softmax(t/T) ‖ softmax(z/T)), of the scores z of the student and t of the teacher."""
        return soft_cross_entropy(logits_of(output), logits_of(wanted), temperature)

    def has(self, split: str | AnySplit) -> bool:
        """Whether the split has images."""
        return len(self._split(split)) > 0

    def samples(self, split: str | AnySplit) -> int:
        """Images of a split."""
        return len(self._split(split))

    def guess(self, split: str = "test") -> float | None:
        """The share of the commonest class, in percent."""
        labels = self._split(split).labels
        return 100 * float(labels.bincount().max()) / len(labels) if len(labels) else None

    def source(self, split: str | AnySplit) -> Any:
        """Refuses a split without images."""
        if not self.has(split):
            raise InputError(f"There are no images to evaluate on in this split of {self.data.name}.")
        return self

    def steps(self, batch_size: int, processes: int = 1) -> int:
        """Optimiser steps per epoch: equal ones instead of a tiny last one."""
        return steps_per_epoch(len(self.data.train), batch_size, processes)

    def training(self, epoch: Epoch) -> Iterator[Batch]:
        """The images of an epoch, augmented and normalised on the device."""
        plan = plan_epoch(self.data, epoch)
        batches = self.data.train.batches(plan.size, order=plan.order, crop_seed=plan.crop_seed)
        for step, (images, labels) in enumerate(batches):
            draws = plan.draws and plan.draws.part(step * plan.size, (step + 1) * plan.size)
            yield self._batch(images, labels, epoch.device, epoch.layout, draws)

    def evaluation(
        self,
        split: str | AnySplit,
        *,
        batch_size: int = 500,
        limit: int | None = None,
        share: tuple[int, int] = (0, 1),
        device: torch.device | None = None,
        layout: torch.memory_format = torch.contiguous_format,
    ) -> Iterator[Batch]:
        """The images of a split in their order; with a ``limit``, so many drawn once."""
        found = self._split(split)
        order = None
        if limit is not None and limit < len(found):
            order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[:limit]
        if share[1] > 1:
            order = (torch.arange(len(found)) if order is None else order)[share[0] :: share[1]]
        for images, labels in found.batches(batch_size, order=order):
            yield self._batch(images, labels, device or torch.device("cpu"), layout)

    def meter(self) -> Hits:
        """Sums of cross-entropy and hits."""
        return Hits()

    def hits(self, output: Any, target: Any) -> Tensor:
        """100 times the images whose label (or most probable class) has the highest score."""
        labels = target if target.ndim == 1 else target.argmax(1)
        hits: Tensor = (logits_of(output).argmax(1) == labels).sum()
        return 100 * hits

    def sample(self, count: int, *, split: str = "train", seed: int = 0) -> Tensor:
        """``count`` normalised images drawn with ``seed``: float32, (count, C, H, W)."""
        return self.data.sample(count, split=split, seed=seed)

    def calibration(self, count: int, *, split: str = "train", seed: int = 0) -> Iterator[tuple[Tensor, Any]]:
        """The same images in batches, with their labels."""
        return self.data.labelled(count, split=split, seed=seed)

    def settings(self) -> dict[str, Any]:
        """How many images there are."""
        return {"train_images": len(self.data.train), "validation_images": len(self.data.validation)}

    def describe(self) -> str:
        """One line about the data set.

        >>> from secateur.data import load
        >>> Classification(load("digits")).describe()  # doctest: +ELLIPSIS
        'digits: ... training, ... validation, ... test images of 1×8×8, 10 classes'
        """
        data = self.data
        channels, height, width = data.shape
        counts = f"{len(data.train):,} training, {len(data.validation):,} validation, {len(data.test):,} test images"
        return f"{data.name}: {counts} of {channels}×{height}×{width}, {len(data.classes)} classes"

    exact = True  # orders and augmentation are drawn here, from the seeds

    def _split(self, split: str | AnySplit) -> AnySplit:
        if not isinstance(split, str):
            return split
        if split not in ("train", "validation", "test"):
            raise InputError(f"A split is one of train, validation, test; got {split!r}.")
        found: AnySplit = getattr(self.data, split)
        return found

    def _batch(
        self,
        images: Tensor,
        labels: Tensor,
        device: torch.device,
        layout: torch.memory_format,
        draws: Draws | None = None,
    ) -> Batch:
        images = images.to(device)
        if draws is not None:
            images = crop_and_flip(images, draws)
        inputs = self.data.normalise(images).contiguous(memory_format=layout)
        return Batch(inputs, labels.to(device), len(labels))


class Hits:
    """Sums over images: cross-entropy, top-1 hits, top-5 hits, images; float64 on the CPU."""

    def __init__(self) -> None:
        """Nothing is added yet."""
        self.sums: Tensor | None = torch.zeros(4, dtype=torch.float64)

    def update(self, output: Any, target: Tensor, size: int) -> None:
        """Adds a batch of scores (B, classes) and labels (B,)."""
        scores, labels = logits_of(output).float().cpu(), target.cpu()
        best = scores.topk(min(5, scores.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(scores, labels, reduction="sum")
        assert self.sums is not None
        self.sums += torch.stack([loss, best[:, 0].sum(), best.sum(), torch.tensor(len(labels))]).double()

    def compute(self) -> dict[str, float]:
        """Top-1 and top-5 in percent, and the mean cross-entropy."""
        assert self.sums is not None
        loss, top1, top5, count = self.sums.tolist()
        return {"top1": 100 * top1 / count, "top5": 100 * top5 / count, "loss": loss / count}


def as_task(data: DataSet | Task) -> Task:
    """A task as it is, and a data set of images as a task.

    Raises:
        InputError: It is neither.
    """
    if isinstance(data, Task):
        return data
    if isinstance(data, DataSet):
        return Classification(data)
    raise InputError(
        f"Wanted a task (secateur.Task(train=…, test=…, loss=…, metrics=…)) or a data set of images "
        f"(secateur.data.load); got {type(data).__name__}."
    )


def logits_of(output: object) -> Tensor:
    """The class scores among what a network returns (GoogLeNet adds side heads while it trains)."""
    if isinstance(output, Tensor):
        return output
    scores = getattr(output, "logits", None)
    if scores is None and isinstance(output, tuple | list) and output:
        scores = output[0]
    if scores is None and isinstance(output, dict):
        scores = output.get("logits", output.get("out"))
    if not isinstance(scores, Tensor):
        raise InputError(f"The network returns {type(output).__name__}; wanted class scores (B, classes).")
    return scores


def soft_cross_entropy(output: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """T²·KL(softmax(t/T) ‖ softmax(z/T)), the mean over all but dimension 1, which holds the classes.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, arXiv:1503.02531, §2.

    Args:
        output: z, scores of the student, (B, classes, …).
        wanted: t, scores of the teacher, the same shape.
        temperature: T.
    """
    student, teacher = (F.log_softmax(scores.float() / temperature, 1) for scores in (output, wanted))
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return temperature**2 * divergence / (output.numel() / output.shape[1])
