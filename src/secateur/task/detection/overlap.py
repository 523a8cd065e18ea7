"""How much boxes overlap: IoU for assignment, suppression and scores, CIoU for the loss."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ciou", "corners_of", "iou"]


def corners_of(centres: Tensor, sizes: Tensor) -> Tensor:
    """Centres (…, 2) and sizes (…, 2) → corners (…, 4): left, top, right, bottom."""
    return torch.cat([centres - sizes / 2, centres + sizes / 2], -1)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]).clamp(min=0) * (boxes[..., 3] - boxes[..., 1]).clamp(min=0)


def _shared(a: Tensor, b: Tensor) -> Tensor:
    """Area that lies in both boxes; shapes are broadcast."""
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])
    return sides.clamp(min=0).prod(-1)


def _union(a: Tensor, b: Tensor, shared: Tensor) -> Tensor:
    return (_area(a) + _area(b) - shared).clamp(min=1e-9)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of ``a`` with every one of ``b``.

    Args:
        a: Corners, (N, 4).
        b: Corners, (M, 4), in the same unit.

    Returns:
        (N, M), in 0…1.

    >>> iou(torch.tensor([[0.0, 0, 2, 2]]), torch.tensor([[1.0, 0, 3, 2], [5, 5, 6, 6]]))
    tensor([[0.3333, 0.0000]])
    """
    a, b = a[:, None], b[None]
    shared = _shared(a, b)
    return shared / _union(a, b, shared)


def ciou(a: Tensor, b: Tensor) -> Tensor:
    """Complete IoU of pairs: ``IoU − ρ²/c² − α·v`` (Zheng et al., arXiv:1911.08287).

    ρ is the distance of the centres, c the diagonal of the smallest box around both,
    ``v = 4/π² · (atan(w/h) − atan(w′/h′))²`` and ``α = v / (1 − IoU + v)``, through which no gradient flows.

    Args:
        a: Corners, (N, 4).
        b: Corners, (N, 4).

    Returns:
        (N,), in −1.5…1.
    """
    shared = _shared(a, b)
    overlap = shared / _union(a, b, shared)
    around = torch.maximum(a[:, 2:], b[:, 2:]) - torch.minimum(a[:, :2], b[:, :2])
    diagonal = around.square().sum(1).clamp(min=1e-9)
    distance = (a[:, :2] + a[:, 2:] - b[:, :2] - b[:, 2:]).square().sum(1) / 4
    angles = [torch.atan2(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) for box in (a, b)]
    difference = 4 / math.pi**2 * (angles[0] - angles[1]).square()
    weight = (difference / (1 - overlap + difference).clamp(min=1e-9)).detach()
    return overlap - distance / diagonal - weight * difference
