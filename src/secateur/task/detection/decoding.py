"""From a network's maps to boxes: what every anchor of every cell says, and what of that is reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.models.darknet import Detection
from secateur.task.detection.overlap import corners_of
from secateur.task.detection.suppression import nms_per_class

__all__ = ["Detections", "Raw", "decode", "detections", "raw"]

_WIDEST = 8.0
"""Logarithm of the most that a box may be larger than its anchor; beyond it, exp overflows and no image is so large."""


@dataclass(frozen=True)
class Raw:
    """One scale of a network's output by anchor and cell, and where its boxes are. A = anchors, C = classes.

    Attributes:
        corners: (B, A, H, W, 4), in pixels of the input.
        objectness: (B, A, H, W), logits.
        classes: (B, A, H, W, C), logits.
    """

    corners: Tensor
    objectness: Tensor
    classes: Tensor


def raw(output: Tensor, scale: Detection, image: tuple[int, int]) -> Raw:
    """Reads a map of YOLOv3's form (Redmon & Farhadi, arXiv:1804.02767, section 2.1).

    In cell (i, j), ``x = (j + σ(tₓ)) · W_image / W``, ``y`` alike, ``w = anchor · exp(t_w)``.

    Args:
        output: (B, A · (5 + C), H, W): for every anchor x, y, w, h, objectness, classes.
        scale: Its anchors and classes.
        image: (H, W) of the network's input.

    Raises:
        InputError: The map has other channels.
    """
    count, (batch, channels, height, width) = len(scale.anchors), output.shape
    if channels != count * (5 + scale.classes):
        raise InputError(
            f"A map of {count} anchors and {scale.classes} classes has {count * (5 + scale.classes)} channels; got "
            f"{channels}."
        )
    values = output.view(batch, count, 5 + scale.classes, height, width).permute(0, 1, 3, 4, 2)
    columns, rows = (torch.arange(n, device=output.device, dtype=output.dtype) for n in (width, height))
    x = (values[..., 0].sigmoid() + columns) * (image[1] / width)
    y = (values[..., 1].sigmoid() + rows[:, None]) * (image[0] / height)
    anchors = output.new_tensor(scale.anchors)[:, None, None]
    sizes = anchors * values[..., 2:4].clamp(max=_WIDEST).exp()
    return Raw(corners_of(torch.stack([x, y], -1), sizes), values[..., 4], values[..., 5:])


def decode(outputs: Sequence[Tensor], scales: Sequence[Detection], image: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """All boxes of all scales, and how sure the network is of each class in each.

    Args:
        outputs: The network's maps, one a scale; see :func:`raw`.
        scales: ``network.detections`` of a Darknet network; of the dense one, where a cut took the class away.
        image: (H, W) of the network's input.

    Returns:
        Corners in pixels of the input, (B, N, 4), and scores ``σ(objectness) · σ(class)``, (B, N, C).
    """
    if len(outputs) != len(scales):
        raise InputError(f"decode wants one map a scale; got {len(outputs)} maps and {len(scales)} scales.")
    found = [raw(output, scale, image) for output, scale in zip(outputs, scales, strict=True)]
    corners = torch.cat([one.corners.flatten(1, 3) for one in found], 1)
    scores = [(one.objectness.sigmoid()[..., None] * one.classes.sigmoid()).flatten(1, 3) for one in found]
    return corners, torch.cat(scores, 1)


@dataclass(frozen=True, repr=False, eq=False)
class Detections:
    """What was found in one image, the surest first.

    Attributes:
        corners: (N, 4), in pixels.
        scores: (N,), in 0…1.
        labels: int64, (N,).
    """

    corners: Tensor
    scores: Tensor
    labels: Tensor

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.labels)

    def above(self, score: float) -> Detections:
        """Those with at least this score."""
        stay = self.scores >= score
        return Detections(self.corners[stay], self.scores[stay], self.labels[stay])

    def __repr__(self) -> str:
        """Says how many."""
        return f"Detections({len(self)})"


@arguments.checked
def detections(
    corners: Tensor, scores: Tensor, *, threshold: float = 0.25, overlap: float = 0.45, most: int = 100
) -> list[Detections]:
    """What is reported of decoded boxes: by class, those above ``threshold`` that no better one overlaps.

    Args:
        corners: (B, N, 4).
        scores: (B, N, C).
        threshold: The least score; for average precision about 0.001, to show somebody about 0.25.
        overlap: The IoU from which on two boxes of a class are one object.
        most: Boxes of an image at most; 100 is what COCO's average precision looks at.

    Returns:
        One result an image.
    """
    if corners.shape != (*scores.shape[:2], 4) or scores.ndim != 3:
        raise InputError(
            f"detections wants corners (B, N, 4) and scores (B, N, C); got {tuple(corners.shape)} and "
            f"{tuple(scores.shape)}."
        )
    if not 0 <= threshold <= 1 or most < 1:
        raise InputError(f"threshold is a score in 0…1 and most at least 1; got {threshold} and {most}.")
    return [_one(box, score, threshold, overlap, most) for box, score in zip(corners, scores, strict=True)]


_CANDIDATES = 10_000
"""Boxes of an image that suppression looks at, the surest ones: the rest could matter only if all of these overlap."""


def _one(corners: Tensor, scores: Tensor, threshold: float, overlap: float, most: int) -> Detections:
    rows, labels = (scores > threshold).nonzero(as_tuple=True)
    found = scores[rows, labels]
    if len(found) > _CANDIDATES:
        best = found.topk(_CANDIDATES).indices.sort().values
        rows, labels, found = rows[best], labels[best], found[best]
    kept = nms_per_class(corners[rows], found, labels, overlap)[:most]
    return Detections(corners[rows[kept]], found[kept], labels[kept])
