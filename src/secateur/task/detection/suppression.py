"""Non-maximum suppression: of boxes that overlap, the one with the highest score stays."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.models import import_torchvision
from secateur.task.detection.overlap import iou

__all__ = ["nms", "nms_per_class", "plain_nms"]

_BLOCK = 1024
"""Boxes that are held against all later ones at once; (block, N) overlaps are in memory."""


@arguments.checked
def nms(boxes: Tensor, scores: Tensor, threshold: float = 0.5) -> Tensor:
    """Positions of the boxes that stay, the highest score first.

    torchvision's compiled operator where it is there, else :func:`plain_nms`, which gives the same.

    Args:
        boxes: Corners, (N, 4), finite.
        scores: (N,).
        threshold: A box goes when its IoU with a better one that stays is greater.

    Returns:
        int64, (M,). Of equal scores the earlier box is the better one.

    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    >>> nms(boxes, torch.tensor([0.8, 0.9, 0.3]))
    tensor([1, 2])
    """
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or scores.shape != boxes.shape[:1]:
        raise InputError(
            f"nms wants boxes (N, 4) and one score a box; got {tuple(boxes.shape)} and {tuple(scores.shape)}."
        )
    if not 0 <= threshold <= 1:
        raise InputError(f"nms(threshold=…) is an IoU in 0…1; got {threshold}.")
    if has_compiled():
        kept: Tensor = torch.ops.torchvision.nms(boxes, scores, threshold)
        return kept
    return plain_nms(boxes, scores, threshold)


def has_compiled() -> bool:
    """Whether torchvision is here with its compiled operators."""
    try:
        return bool(import_torchvision().extension._has_ops())
    except InputError:  # not installed
        return False


def plain_nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """The same in plain PyTorch: boxes by score, in blocks; what a block keeps is held against all later boxes."""
    order = torch.argsort(scores, descending=True, stable=True)
    boxes, kept = boxes[order], []
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for start in range(0, len(boxes), _BLOCK):
        if not bool(alive[start : start + _BLOCK].any()):
            continue
        later = iou(boxes[start : start + _BLOCK], boxes[start:]) > threshold
        alive_here, here = alive[start:].clone(), []
        for row in range(len(later)):
            if bool(alive_here[row]):
                here.append(start + row)
                alive_here[row:] &= ~later[row, row:]
        alive[start:] = alive_here
        kept += here
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def nms_per_class(boxes: Tensor, scores: Tensor, labels: Tensor, threshold: float = 0.5) -> Tensor:
    """As :func:`nms`, and boxes of different classes leave each other alone; the highest score first.

    Args:
        boxes: Corners, (N, 4).
        scores: (N,).
        labels: int64, (N,).
        threshold: See :func:`nms`.
    """
    kept = [torch.empty(0, dtype=torch.int64, device=boxes.device)]
    for label in torch.unique(labels).tolist():
        members = (labels == label).nonzero().flatten()
        kept.append(members[nms(boxes[members], scores[members], threshold)])
    stay = torch.cat(kept).sort().values
    return stay[torch.argsort(scores[stay], descending=True, stable=True)]
