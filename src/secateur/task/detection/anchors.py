"""Anchors: the sizes of boxes that a network starts from, found among the sizes that the data have."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.boxes import Boxes

__all__ = ["anchor_overlap", "find_anchors", "shape_overlap"]

_ROUNDS = 300


def shape_overlap(a: Tensor, b: Tensor) -> Tensor:
    """IoU of boxes with a common corner: what sizes alone say of each other.

    Args:
        a: Widths and heights, (N, 2).
        b: Widths and heights, (M, 2).

    Returns:
        (N, M), in 0…1.

    >>> shape_overlap(torch.tensor([[2.0, 4]]), torch.tensor([[4.0, 4], [2, 4]]))
    tensor([[0.5000, 1.0000]])
    """
    shared = torch.minimum(a[:, None], b[None]).prod(-1)
    return shared / (a.prod(-1)[:, None] + b.prod(-1)[None] - shared).clamp(min=1e-9)


def _sizes(boxes: Iterable[Boxes]) -> Tensor:
    corners = torch.cat([one.counted.corners for one in boxes] or [torch.empty(0, 4)]).double()
    sizes: Tensor = corners[:, 2:] - corners[:, :2]
    return sizes[(sizes > 0).all(1)]


def anchor_overlap(boxes: Iterable[Boxes], anchors: Iterable[tuple[int, int]]) -> float:
    """Mean IoU of every box's shape with that of its best anchor: how well anchors fit data, 1 at best."""
    sizes = _sizes(boxes)
    pairs = [tuple(anchor) for anchor in anchors]
    if any(len(pair) != 2 for pair in pairs):
        raise InputError(f"anchor_overlap(anchors=…) wants pairs of width and height; got {str(pairs)[:80]}.")
    wanted = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    if not len(sizes) or not len(wanted):
        raise InputError(f"anchor_overlap wants boxes and anchors; got {len(sizes)} and {len(wanted)}.")
    return float(shape_overlap(sizes, wanted).max(1).values.mean())


@arguments.checked
def find_anchors(boxes: Iterable[Boxes], count: int = 9, *, seed: int = 0) -> list[tuple[int, int]]:
    """Anchors by k-means with the distance ``1 − IoU`` (Redmon & Farhadi, arXiv:1612.08242, section 2).

    The first centres are drawn as k-means++ does, with that distance; a centre is the mean of its boxes.

    Args:
        boxes: Of the training images, in pixels of the network's input: those of a
            :class:`secateur.data.boxes.Letterboxed` split.
        count: 9 for YOLOv3, 6 for YOLOv3-tiny.
        seed: Of the first centres.

    Returns:
        Widths and heights in whole pixels, the smallest area first.

    Raises:
        DataError: There are fewer sizes than anchors.

    >>> find_anchors([Boxes.of([((0, 0, 10, 20), 0), ((5, 5, 15, 25), 0), ((0, 0, 40, 40), 0)])], 2)
    [(10, 20), (40, 40)]
    """
    sizes = _sizes(boxes)
    different = len(torch.unique(sizes, dim=0))
    if count < 1 or different < count:
        raise DataError(f"find_anchors wants at least as many sizes of boxes as anchors; got {different} and {count}.")
    centres = _first(sizes, count, torch.Generator().manual_seed(seed))
    members = torch.full((len(sizes),), -1)
    for _ in range(_ROUNDS):
        nearest = shape_overlap(sizes, centres).max(1).indices
        if torch.equal(nearest, members):
            break
        members = nearest
        means = [sizes[members == i].mean(0) if bool((members == i).any()) else centres[i] for i in range(count)]
        centres = torch.stack(means)
    centres = centres[centres.prod(1).argsort()]
    return [(max(1, round(width)), max(1, round(height))) for width, height in centres.tolist()]


def _first(sizes: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Centres far from one another: each is drawn with the distance to the nearest one before, squared."""
    chosen = [int(torch.randint(len(sizes), (), generator=generator))]
    while len(chosen) < count:
        distance = 1 - shape_overlap(sizes, sizes[chosen]).max(1).values
        chosen.append(int(torch.multinomial(distance.clamp(min=0).square(), 1, generator=generator)))
    return sizes[chosen]
