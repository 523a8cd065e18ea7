"""Average precision as COCO counts it, by torchmetrics with a COCO back end."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.data.boxes import Boxes
from secateur.models import import_torchvision
from secateur.task.detection.decoding import Detections

__all__ = ["AveragePrecision", "MeanPrecision"]

_BACKENDS = ("faster_coco_eval", "pycocotools")
# As COCO's own code has them: in single precision, as torchmetrics makes them, 0.8 is more than an IoU of 0.8.
_OVERLAPS, _RECALLS = np.linspace(0.5, 0.95, 10).tolist(), np.linspace(0.0, 1.0, 101).tolist()
_INSTALL = 'pip install "secateur[detection]"'


@dataclass(frozen=True)
class MeanPrecision:
    """What :class:`AveragePrecision` gives; shares in 0…1, and NaN where there is no object to find.

    Attributes:
        map50: Mean over classes of the average precision at an IoU of 0.5.
        map: … and over the IoUs 0.5, 0.55 … 0.95.
        per_class50: Average precision at 0.5 by class name; only of classes that have objects.
        per_class: … over all IoUs.
    """

    map50: float
    map: float
    per_class50: Mapping[str, float]
    per_class: Mapping[str, float]


class AveragePrecision:
    """Collects what was found and what was there, image by image, and computes COCO's average precision.

    Lin et al., arXiv:1405.0312: precision at 101 recalls, 100 boxes of an image at most. Ignored boxes count as COCO's
    crowds: what is found of them is neither right nor wrong.

    >>> metric = AveragePrecision(["cat", "dog"])
    >>> found = Detections(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0.9]), torch.tensor([1]))
    >>> metric.update([found], [Boxes.of([((0, 0, 10, 9), 1), ((20, 20, 30, 30), 1)])])
    >>> score = metric.compute()
    >>> round(score.map50, 3), round(score.map, 3), list(score.per_class)
    (0.505, 0.454, ['dog'])

    As a metric of a task, ``metrics={"map50": AveragePrecision(classes)}``, it gives what it is named after.
    """

    higher_is_better = True  # as torchmetrics's own say it

    def __init__(self, classes: Sequence[str]) -> None:
        """``classes`` are the names of the labels.

        Raises:
            InputError: torchmetrics, torchvision or a COCO back end is not installed.
        """
        self.classes = tuple(classes)
        self._metric, self._images = _made(), 0

    def update(self, found: Sequence[Detections], boxes: Sequence[Boxes]) -> None:
        """Adds a batch.

        Args:
            found: What was found in each image: everything, or what has a score above about 0.001.
            boxes: What is there, in the same pixels.

        Raises:
            InputError: Another number of results than of images, or a label without a name.
        """
        if len(found) != len(boxes):
            raise InputError(f"AveragePrecision.update wants boxes for each result; got {len(found)} and {len(boxes)}.")
        for labels in (*(one.labels for one in found), *(one.labels for one in boxes)):
            if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < len(self.classes):
                raise InputError(
                    f"AveragePrecision has names for {len(self.classes)} classes, from 0 on; got labels from "
                    f"{int(labels.min())} to {int(labels.max())}."
                )
        self._images += len(found)
        self._metric.update([_found(one) for one in found], [_there(one) for one in boxes])

    def compute(self) -> MeanPrecision:
        """The precision of everything that was added; NaN where that is nothing."""
        if not self._images:
            return MeanPrecision(float("nan"), float("nan"), {}, {})
        with contextlib.redirect_stdout(io.StringIO()):  # the back ends print tables
            values = self._metric.compute()
        labels = values["classes"].reshape(-1).tolist()
        precision = values["precision"]  # (IoUs, recalls, classes, areas, most), −1 where nothing is to be found
        per_class = {self.classes[n]: _mean(precision[:, :, i, 0, -1]) for i, n in enumerate(labels)}
        at_half = {self.classes[n]: _mean(precision[0, :, i, 0, -1]) for i, n in enumerate(labels)}
        known = {name: value for name, value in per_class.items() if value == value}
        half = {name: at_half[name] for name in known}
        return MeanPrecision(_average(half), _average(known), half, known)

    def curve(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Precision over recall at an IoU of 0.5: the 101 recalls, and the mean over the classes that have objects."""
        if not self._images:
            return (), ()
        with contextlib.redirect_stdout(io.StringIO()):
            values = self._metric.compute()
        precision = values["precision"][0, :, :, 0, -1]
        kept = precision[:, (precision > -1).all(0)].double()
        if not kept.shape[1]:
            return (), ()
        return tuple(_RECALLS), tuple(round(value, 5) for value in kept.mean(1).tolist())

    def reset(self) -> None:
        """Forgets everything that was added."""
        self._images = 0
        self._metric.reset()


def _mean(values: Tensor) -> float:
    kept = values[values > -1]
    return float(kept.double().mean()) if kept.numel() else float("nan")


def _average(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values) if values else float("nan")


def _found(one: Detections) -> dict[str, Tensor]:
    return {"boxes": one.corners.float().cpu(), "scores": one.scores.float().cpu(), "labels": one.labels.cpu()}


def _there(one: Boxes) -> dict[str, Tensor]:
    return {"boxes": one.corners.cpu(), "labels": one.labels.cpu(), "iscrowd": one.ignored.to("cpu", torch.int64)}


def _made() -> Any:
    """torchmetrics's metric, with the first COCO back end that is installed."""
    import_torchvision("detection")  # torchmetrics imports it, and would fail the way it does
    try:
        detection = importlib.import_module("torchmetrics.detection")
    except ImportError as error:
        raise InputError(f"Average precision needs torchmetrics: {_INSTALL}.") from error
    for backend in _BACKENDS:
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(backend)
            return detection.MeanAveragePrecision(
                "xyxy", iou_thresholds=_OVERLAPS, rec_thresholds=_RECALLS, class_metrics=True, extended_summary=True,
                backend=backend,
            )  # fmt: skip
    raise InputError(f"Average precision needs faster-coco-eval or pycocotools: {_INSTALL}.")
