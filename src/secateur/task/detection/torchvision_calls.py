"""What the task of detection does with a detector of torchvision: calls it as torchvision does, and reads its boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.core.errors import InputError
from secateur.models import TorchvisionDetector
from secateur.task.batch import Batch
from secateur.task.detection.decoding import Detections
from secateur.task.detection.operators import runnable

__all__ = ["as_detections", "called", "is_found", "made_of"]

MOST = 100
"""Boxes of an image that average precision looks at (COCO)."""


def is_found(output: Any) -> bool:
    """Whether an output is boxes already, as a detector of torchvision gives them."""
    return isinstance(output, list) and all(isinstance(one, Detections) for one in output)


def as_detections(found: Sequence[Mapping[str, Tensor]]) -> list[Detections]:
    """What torchvision found, the surest first, as many as COCO's average precision looks at."""
    made = []
    for one in found:
        order = one["scores"].argsort(descending=True, stable=True)
        order = order[one["labels"][order] > 0][:MOST]  # RetinaNet and FCOS have scores for a background too
        made.append(Detections(one["boxes"][order], one["scores"][order], one["labels"][order] - 1))
    return made


def called(model: nn.Module, batch: Batch) -> Any:
    """A detector of torchvision on a batch: its losses where it trains, else what it finds; 0 is its background."""
    images = list(batch.inputs)
    if not model.training:
        with runnable():
            return as_detections(model(images))
    heads = getattr(getattr(model, "module", model).detector, "roi_heads", None)
    extra = [kind for kind in ("mask", "keypoint") if getattr(heads, f"{kind}_roi_pool", None) is not None]
    if extra:
        raise InputError(
            f"The task detection has boxes and no {extra[0]}s, which this network trains on too; it can be cut, "
            "timed and scored. Train it with torchvision's own loop, or take a detector of boxes alone."
        )
    device = images[0].device
    there = [boxes.corners[~boxes.ignored] for boxes in batch.target]
    labels = [boxes.labels[~boxes.ignored] + 1 for boxes in batch.target]
    pairs = zip(there, labels, strict=True)
    targets = [{"boxes": corners.to(device), "labels": label.to(device)} for corners, label in pairs]
    with runnable():
        return model(images, targets)


def made_of(model: TorchvisionDetector, maps: Any, batch: Batch) -> list[Detections] | None:
    """The boxes that maps of a file mean for a batch; ``None`` of two-stage detectors."""
    with runnable():
        found = model.found(maps, [*batch.inputs])
    return None if found is None else as_detections(found)
