"""The loss of YOLOv3: which anchor of which cell is to find a box, and how far its output is from that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core.errors import InputError
from secateur.data.boxes import Boxes
from secateur.models.darknet import Detection
from secateur.task.detection.anchors import shape_overlap
from secateur.task.detection.decoding import Raw, raw
from secateur.task.detection.overlap import ciou, iou

__all__ = ["Assigned", "YoloLoss", "YoloParts", "assign"]


@dataclass(frozen=True)
class Assigned:
    """Which places of one scale are to find a box; one entry a box.

    Attributes:
        image: int64, (K,): number in the batch.
        anchor: int64, (K,).
        row: int64, (K,).
        column: int64, (K,).
        corners: (K, 4): the box, in pixels of the input.
        labels: int64, (K,).
    """

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    corners: Tensor
    labels: Tensor

    @property
    def places(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Index into (B, A, H, W)."""
        return self.image, self.anchor, self.row, self.column


def assign(
    boxes: Sequence[Boxes],
    scales: Sequence[Detection],
    cells: Sequence[tuple[int, int]],
    image: tuple[int, int],
    *,
    several: float = 1.0,
) -> list[Assigned]:
    """Gives every box to the anchor of all scales whose shape fits best, in the cell that its centre lies in.

    Args:
        boxes: Of every image of the batch, in pixels of the input; ignored ones are given to none.
        scales: Anchors of every scale.
        cells: (H, W) of the map of every scale.
        image: (H, W) of the input.
        several: Anchors whose shape overlaps the box's by more than this are given it too.

    Returns:
        One entry a scale.
    """
    counted = [one.counted for one in boxes]
    corners = torch.cat([one.corners for one in counted]) if counted else torch.empty(0, 4)
    labels = torch.cat([one.labels for one in counted]) if counted else torch.empty(0, dtype=torch.int64)
    lengths = torch.tensor([len(one) for one in counted], device=corners.device)
    number = torch.arange(len(counted), device=corners.device).repeat_interleave(lengths)
    anchors = corners.new_tensor([anchor for scale in scales for anchor in scale.anchors])
    fits = shape_overlap(corners[:, 2:] - corners[:, :2], anchors)
    given = fits > several
    if len(corners):
        given.scatter_(1, fits.argmax(1, keepdim=True), True)
    found, first = [], 0
    for scale, (height, width) in zip(scales, cells, strict=True):
        mine, anchor = given[:, first : first + len(scale.anchors)].nonzero(as_tuple=True)
        x, y = (corners[mine, :2] + corners[mine, 2:]).unbind(1)
        column = (x / 2 * width / image[1]).long().clamp(0, width - 1)
        row = (y / 2 * height / image[0]).long().clamp(0, height - 1)
        found.append(Assigned(number[mine], anchor, row, column, corners[mine], labels[mine]))
        first += len(scale.anchors)
    return found


@dataclass(frozen=True)
class YoloParts:
    """The loss and what it is made of.

    Attributes:
        total: Weighted sum; to be minimised.
        box: Mean of 1 − CIoU over boxes.
        objectness: Binary cross-entropy summed over places, per box.
        classes: Binary cross-entropy summed over classes, mean over boxes.
    """

    total: Tensor
    box: Tensor
    objectness: Tensor
    classes: Tensor


@dataclass(frozen=True)
class YoloLoss:
    """Loss of YOLOv3's outputs (arXiv:1804.02767, section 2.1), with CIoU for the box (arXiv:1911.08287).

    Every box is given to one place, or to several (:func:`assign`). There the objectness is to be 1, and elsewhere 0;
    but where a prediction overlaps some box (an ignored one too) by more than ``ignore``, nothing is asked. All is
    divided by the number of such places in the batch (at least 1).

    Attributes:
        scales: ``network.detections`` of the (dense) network.
        several: See :func:`assign`; 1 for the best anchor alone, as in the paper. Where objects have much the same
            size, the best one is a toss-up; Darknet's ``iou_thresh``, 0.213 in YOLOv4's file, is this.
        ignore: IoU above which a prediction that is given no box is not told that there is none.
        box: Weight of the box's part.
        objectness: Weight of the objectness's part.
        classes: Weight of the classes' part.

    >>> from secateur.models import create
    >>> network = create("yolov3_tiny", classes=2)
    >>> boxes = [Boxes.of([((10, 10, 40, 50), 1)])]
    >>> parts = YoloLoss(network.detections)(network(torch.zeros(1, 3, 64, 64)), boxes, (64, 64))
    >>> bool(parts.total > 0)
    True
    """

    scales: Sequence[Detection]
    several: float = 1.0
    ignore: float = 0.7
    box: float = 2.0
    objectness: float = 1.0
    classes: float = 1.0

    def __call__(self, outputs: Sequence[Tensor], boxes: Sequence[Boxes], image: tuple[int, int]) -> YoloParts:
        """The loss of a batch.

        Args:
            outputs: The network's maps, (B, A · (5 + C), H, W) each.
            boxes: Of every image, in pixels of the input.
            image: (H, W) of the input.

        Raises:
            InputError: Another number of maps, images or channels, or a label beyond the classes.
        """
        self._check(outputs, boxes)
        boxes = [_on(one, outputs[0].device) for one in boxes]
        found = [raw(output.float(), scale, image) for output, scale in zip(outputs, self.scales, strict=True)]
        cells = [(int(one.objectness.shape[2]), int(one.objectness.shape[3])) for one in found]
        assigned = assign(boxes, self.scales, cells, image, several=self.several)
        parts = [self._scale(one, mine, boxes) for one, mine in zip(found, assigned, strict=True)]
        count = max(1, sum(len(mine.labels) for mine in assigned))
        box, objectness, classes = (torch.stack(part).sum() / count for part in zip(*parts, strict=True))
        total = self.box * box + self.objectness * objectness + self.classes * classes
        return YoloParts(total, box.detach(), objectness.detach(), classes.detach())

    def _check(self, outputs: Sequence[Tensor], boxes: Sequence[Boxes]) -> None:
        if len(outputs) != len(self.scales) or any(len(output) != len(boxes) for output in outputs):
            got = ", ".join(str(tuple(output.shape)) for output in outputs)
            raise InputError(
                f"YoloLoss wants one map for each of {len(self.scales)} scales and boxes for every image; got maps of "
                f"{got} and {len(boxes)} lists of boxes."
            )
        classes = min(scale.classes for scale in self.scales)
        highest = max((int(one.labels.max()) for one in boxes if len(one)), default=0)
        if highest >= classes:
            raise InputError(f"A box has the label {highest}; the network tells {classes} classes apart, from 0 on.")

    def _scale(self, found: Raw, mine: Assigned, boxes: Sequence[Boxes]) -> tuple[Tensor, Tensor, Tensor]:
        """Sums of one scale."""
        wanted = torch.zeros_like(found.objectness)
        asked = ~self._undecided(found.corners, boxes)
        wanted[mine.places] = 1.0
        asked[mine.places] = True
        objectness = F.binary_cross_entropy_with_logits(found.objectness[asked], wanted[asked], reduction="sum")
        box = (1 - ciou(found.corners[mine.places], mine.corners.to(found.corners.dtype))).sum()
        logits = found.classes[mine.places]
        labels = F.one_hot(mine.labels, logits.shape[1]).to(logits.dtype)
        return box, objectness, F.binary_cross_entropy_with_logits(logits, labels, reduction="sum")

    def _undecided(self, corners: Tensor, boxes: Sequence[Boxes]) -> Tensor:
        """Where a prediction overlaps a box so far that it may stand for it: bool, (B, A, H, W)."""
        with torch.no_grad():
            rows = [
                (iou(flat.reshape(-1, 4), one.corners.to(flat.dtype)) > self.ignore).any(1).view(flat.shape[:-1])
                for flat, one in zip(corners, boxes, strict=True)
            ]
        return torch.stack(rows)


def _on(boxes: Boxes, device: torch.device) -> Boxes:
    return Boxes(*(value.to(device) for value in (boxes.corners, boxes.labels, boxes.ignored)))
