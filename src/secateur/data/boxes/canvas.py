"""Digits on a canvas: images with boxes that need no download, drawn from scikit-learn's 8×8 digits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.data.boxes.annotated import Boxes, BoxSet, BoxSplit
from secateur.data.load import load
from secateur.data.types import AnySplit

__all__ = ["digits_on_canvas"]

_SMALLEST, _LARGEST, _MOST = 14, 28, 4
"""Pixels of a digit's side, and digits of an image."""
_INK, _GROUND = 64, 40
"""A digit is brighter than this, and what lies behind it darker."""


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
    if side < 32 or min(train, test) < 1 or validation < 0:
        raise InputError(
            f"digits_on_canvas wants images to train and to test with, and a side of 32 or more; got {train}, "
            f"{validation}, {test} and {side}."
        )
    digits = load("digits", validation=0.1, seed=0)
    return BoxSet(
        "digits-on-canvas",
        digits.classes,
        _split(digits.train, train, side, seed),
        _split(digits.validation, validation, side, seed + 1),
        _split(digits.test, test, side, seed + 2),
        source="embedded",
    )


def _split(digits: AnySplit, count: int, side: int, seed: int) -> BoxSplit:
    generator = torch.Generator().manual_seed(seed)
    found = [_image(digits, side, generator) for _ in range(count)]
    return BoxSplit.of([pixels for pixels, _ in found], [boxes for _, boxes in found])


def _whole(low: int, high: int, generator: torch.Generator) -> int:
    """A whole number from ``low`` to ``high``."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def _image(digits: AnySplit, side: int, generator: torch.Generator) -> tuple[Tensor, Boxes]:
    canvas = torch.rand(3, side, side, generator=generator) * _GROUND
    taken, rows = torch.zeros(side, side, dtype=torch.bool), []
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
        ys, xs = bright.nonzero(as_tuple=True)
        corners = (left + int(xs.min()), top + int(ys.min()), left + int(xs.max()) + 1, top + int(ys.max()) + 1)
        rows.append((corners, label))
    return canvas.round().to(torch.uint8), Boxes.of(rows)


def _digit(digits: AnySplit, number: int, size: int) -> tuple[Tensor, int]:
    """One digit of ``size`` pixels a side, 0…255, and its class."""
    ((images, labels),) = digits.batches(1, order=torch.tensor([number]))
    scaled = F.interpolate(images.float(), (size, size), mode="bilinear")
    return scaled[0, 0], int(labels[0])
