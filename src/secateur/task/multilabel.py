"""Several labels an image: binary cross-entropy of each, F1 and mean average precision by torchmetrics."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.core.metric import Metric
from secateur.core.seeds import generator
from secateur.data.labelled import LabelSet, LabelSplit, digits_with_labels, load_labels
from secateur.data.types import IMAGENET
from secateur.models import MODELS, import_torchvision
from secateur.task.batch import shapes
from secateur.task.classification import logits_of
from secateur.task.numbered import NumberedTask
from secateur.task.registry import TASKS, Request, TaskKind

__all__ = ["MultiLabel"]


class MultiLabel(NumberedTask):
    """Any number of labels an image.

    The network gives a score for every label, (B, labels); above 0 the image is said to have it.

    Args:
        data: From :func:`secateur.data.labelled.load_labels`.
        size: Pixels of a side that images are scaled to; by default their own size, which has to be one for all.
        flip: Share of training images that are mirrored.

    Attributes:
        data: The same.

    Raises:
        InputError: A share that is none, or torchmetrics is not installed.
    """

    name = "multilabel"
    unit = "image"
    largest = 64

    def __init__(self, data: LabelSet, *, size: int | None = None, flip: float = 0.5) -> None:
        """Images are decoded when they are asked for."""
        super().__init__(metrics=_metrics(len(data.classes)))
        if not 0 <= flip <= 1 or (size is not None and size < 8):
            raise InputError(f"MultiLabel(flip=…) is a share, size=… at least 8 pixels; got {flip} and {size}.")
        self.data, self.classes, self.size, self._flip = data, data.classes, size, flip
        self.outputs = len(data.classes)

    def loss(self, output: Any, target: Tensor) -> Tensor:
        """Mean over images and labels of −y log σ(z) − (1 − y) log(1 − σ(z)).

        Args:
            output: Scores z, (B, labels).
            target: y, int64, (B, labels).
        """
        return F.binary_cross_entropy_with_logits(self._scores(output, target), target.float())

    def predictions(self, output: Any) -> Tensor:
        """Probabilities of the labels, (B, labels)."""
        return logits_of(output).float().sigmoid()

    def distillation(self, output: Any, wanted: Any, temperature: float) -> Tensor:
        """T² times the binary cross-entropy of σ(z/T) with the teacher's σ(t/T), the mean over images and labels."""
        student, teacher = (logits_of(value).float() / temperature for value in (output, wanted))
        return temperature**2 * F.binary_cross_entropy_with_logits(student, teacher.sigmoid())

    def count(self, split: str) -> int:
        """Images of a split."""
        return len(self._split(split))

    def made(self, split: str, index: Tensor, seeds: tuple[object, ...] | None = None) -> tuple[Tensor, Tensor]:
        """Normalised images, float32 (B, 3, H, W), and labels, int64 (B, labels)."""
        images = [self._image(split, number, seeds) for number in index.tolist()]
        if len({image.shape for image in images}) > 1:
            raise InputError(f"The images of {self.data.name} have several sizes: give MultiLabel(size=…).")
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in IMAGENET)
        return (torch.cat(images) - mean) / std, self._split(split).labels[index]

    def _image(self, split: str, number: int, seeds: tuple[object, ...] | None) -> Tensor:
        image = self._split(split).pixels(number)[None].float() / 255
        if self.size is not None and image.shape[2:] != (self.size, self.size):
            image = F.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True)
        if seeds is not None and float(torch.rand((), generator=generator(*seeds, number))) < self._flip:
            image = image.flip(3)
        return image

    def options(self, model: str) -> dict[str, Any]:
        """One output a label."""
        known = model in MODELS or model.startswith(("torchvision:", "timm:"))
        return {"classes": len(self.classes)} if known else {}

    def settings(self) -> dict[str, Any]:
        """How many images of which size, and how they are changed."""
        return {**super().settings(), "size": self.size, "flip": self._flip}

    def _split(self, split: str) -> LabelSplit:
        found: LabelSplit = getattr(self.data, split)
        return found

    def _scores(self, output: Any, target: Tensor) -> Tensor:
        scores = logits_of(output).float()
        if scores.shape != target.shape:
            raise InputError(
                f"The network gives {shapes(scores)} and the labels are of {shapes(target)}: wanted one score a label."
            )
        return scores


def _metrics(labels: int) -> tuple[Metric, ...]:
    """Mean average precision and F1, the means over the labels."""
    try:
        import_torchvision("detection")  # torchmetrics imports it, and would fail the way it does
        from torchmetrics.classification import MultilabelAveragePrecision, MultilabelF1Score
    except ImportError as error:
        raise InputError(
            'The metrics of several labels need torchmetrics: pip install "secateur[detection]".'
        ) from error
    precision, f1 = MultilabelAveragePrecision(num_labels=labels), MultilabelF1Score(num_labels=labels)
    return (
        Metric(precision, "higher", "share", "mAP", "map"),
        Metric(f1, "higher", "share", "F1", "f1"),
    )


def _open(request: Request, **options: Any) -> MultiLabel:
    if request.image_size is not None:
        options.setdefault("size", request.image_size)
    if request.name == "digits":
        limit = request.limit
        data = digits_with_labels(**({} if limit is None else {"train": limit, "validation": limit, "test": limit}))
        return MultiLabel(data, **{"flip": 0.0, **options})
    data = load_labels(request.name, validation=request.validation, seed=request.seed, limit=request.limit)
    return MultiLabel(data, **options)


TASKS.add("multilabel", TaskKind(_open, "several labels an image: mAP, F1", "digits", "resnet20"))
