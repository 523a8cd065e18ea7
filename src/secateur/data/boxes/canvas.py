"""Digits on a canvas: images with boxes and masks that need no download, from scikit-learn's 8×8 digits."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.data.boxes.annotated import Boxes, BoxSet, BoxSplit
from secateur.data.load import load
from secateur.data.types import AnySplit

__all__ = ["Canvas", "digits_on_canvas", "drawn_canvases"]

_SMALLEST, _LARGEST, _MOST = 14, 28, 4
"""Pixels of a digit's side, and digits of an image."""
_INK, _GROUND = 64, 40
"""A digit is brighter than this, and what lies behind it darker."""


class Canvas(NamedTuple):
    """One image with what was drawn on it.

    Attributes:
        pixels: uint8, (3, side, side).
        boxes: The smallest ones around the digits' bright pixels.
        mask: uint8, (side, side): 0 for the ground, a digit's class plus 1 on its bright pixels.
    """

    pixels: Tensor
    boxes: Boxes
    mask: Tensor


@arguments.checked
def digits_on_canvas(
    train: int = 400, validation: int = 50, test: int = 100, *, side: int = 64, seed: int = 0
) -> BoxSet:
    """One to four digits of different sizes and shades on a noisy ground, none over another; ten classes.

    A box is the smallest one around a digit's bright pixels. Digits of test images are in no other image.

    Args:
        train: How many images to train on.
        validation: How many are held out of them.
        test: How many test images.
        side: Pixels of an image's side, at least 32.
        seed: Of everything that is drawn.

    >>> data = digits_on_canvas(2, 1, 1)
    >>> data.train.sizes, len(data.classes)
    (((64, 64), (64, 64)), 10)
    """
    classes, parts = drawn_canvases(train, validation, test, side=side, seed=seed)
    one, two, three = (BoxSplit.of([c.pixels for c in part], [c.boxes for c in part]) for part in parts)
    return BoxSet("digits-on-canvas", classes, one, two, three, source="embedded")


def drawn_canvases(
    train: int, validation: int, test: int, *, side: int, seed: int
) -> tuple[tuple[str, ...], list[list[Canvas]]]:
    """The digits' class names, and the images of the three splits.

    Raises:
        InputError: Images too small for a digit, or no image to train or to test with.
    """
    if side < 32 or min(train, test) < 1 or validation < 0:
        raise InputError(
            f"Digits on a canvas want images to train and to test with, and a side of 32 or more; got {train}, "
            f"{validation}, {test} and {side}."
        )
    digits = load("digits", validation=0.1, seed=0)
    counts = ((digits.train, train), (digits.validation, validation), (digits.test, test))
    return digits.classes, [_canvases(split, n, side, seed + i) for i, (split, n) in enumerate(counts)]


def _canvases(digits: AnySplit, count: int, side: int, seed: int) -> list[Canvas]:
    generator = torch.Generator().manual_seed(seed)
    return [_canvas(digits, side, generator) for _ in range(count)]


def _whole(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from ``low`` to ``high``."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _canvas(digits: AnySplit, side: int, generator: torch.Generator) -> Canvas:
    canvas = torch.rand(3, side, side, generator=generator) * _GROUND
    taken, rows = torch.zeros(side, side, dtype=torch.bool), []
    mask = torch.zeros(side, side, dtype=torch.uint8)
    for _ in range(_whole(1, _MOST, generator)):
        number, size = _whole(0, len(digits) - 1, generator), _whole(_SMALLEST, min(_LARGEST, side // 2), generator)
        left, top = (_whole(0, side - size, generator) for _ in range(2))
        shade = 0.7 + 0.3 * torch.rand(3, 1, 1, generator=generator)
        if bool(taken[top : top + size, left : left + size].any()):
            continue
        taken[top : top + size, left : left + size] = True
        ink, label = _digit(digits, number, size)
        place = canvas[:, top : top + size, left : left + size]
        bright = ink > _INK
        place[:, bright] = (ink * shade).clamp(min=_INK)[:, bright]
        mask[top : top + size, left : left + size][bright] = label + 1
        ys, xs = bright.nonzero(as_tuple=True)
        corners = (left + int(xs.min()), top + int(ys.min()), left + int(xs.max()) + 1, top + int(ys.max()) + 1)
        rows.append((corners, label))
    return Canvas(canvas.round().to(torch.uint8), Boxes.of(rows), mask)


def _digit(digits: AnySplit, number: int, size: int) -> tuple[Tensor, int]:
    """One digit of ``size`` pixels a side, 0…255, and its class."""
    ((images, labels),) = digits.batches(1, order=torch.tensor([number]))
    scaled = F.interpolate(images.float(), (size, size), mode="bilinear")
    return scaled[0, 0], int(labels[0])
