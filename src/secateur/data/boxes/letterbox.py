"""Letterbox: an image of any size in the middle of a square, in its own proportions, with grey beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.data.boxes.annotated import Boxes, BoxSplit, Image

__all__ = ["GREY", "Letterboxed", "Placement", "collate", "letterbox", "placement"]

GREY = 128
"""What lies beside the image: the middle of the range, as in Darknet."""


@dataclass(frozen=True)
class Placement:
    """Where an image lies in its square: ``x · scale + left``, ``y · scale + top``.

    The two scales differ by rounding alone, for an image has whole pixels.

    Attributes:
        scale: Of x and of y.
        left: Pixels of grey before the image.
        top: Pixels of grey above it.
    """

    scale: tuple[float, float]
    left: int
    top: int

    def forward(self, corners: Tensor) -> Tensor:
        """Corners in the image → in the square, (N, 4)."""
        return corners * corners.new_tensor(self.scale * 2) + corners.new_tensor((self.left, self.top) * 2)

    def back(self, corners: Tensor) -> Tensor:
        """Corners in the square → in the image, (N, 4)."""
        return (corners - corners.new_tensor((self.left, self.top) * 2)) / corners.new_tensor(self.scale * 2)


def _inner(size: tuple[int, int], square: int) -> tuple[int, int]:
    """(H, W) that an image has in its square."""
    scale = square / max(size)
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


@arguments.checked
def placement(size: tuple[int, int], square: int) -> Placement:
    """Where an image of ``size`` (H, W) lies in a square of ``square`` pixels a side.

    >>> place = placement((480, 640), 416)
    >>> place
    Placement(scale=(0.65, 0.65), left=0, top=52)
    >>> place.back(place.forward(torch.tensor([[10.0, 20, 30, 40]]))).round().tolist()
    [[10.0, 20.0, 30.0, 40.0]]
    """
    if square < 1 or min(size) < 1:
        raise InputError(f"placement wants an image and a square of at least one pixel; got {size} and {square}.")
    height, width = _inner(size, square)
    return Placement((width / size[1], height / size[0]), (square - width) // 2, (square - height) // 2)


@arguments.checked
def letterbox(pixels: Tensor, square: int, *, grey: int = GREY) -> Tensor:
    """Puts an image into a square, scaled with its proportions kept.

    Args:
        pixels: uint8, (C, H, W).
        square: Pixels of a side.
        grey: What lies beside the image.

    Returns:
        uint8, (C, square, square). Where the image lies in it is :func:`placement`.
    """
    if pixels.ndim != 3 or pixels.dtype != torch.uint8:
        raise InputError(
            f"letterbox(pixels=…) wants a uint8 image (C, H, W); got {pixels.dtype} {tuple(pixels.shape)}."
        )
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    place, (height, width) = placement(size, square), _inner(size, square)
    if (height, width) != size:
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
    framed = torch.full((pixels.shape[0], square, square), grey, dtype=torch.uint8)
    framed[:, place.top : place.top + height, place.left : place.left + width] = pixels
    return framed


@dataclass(frozen=True, repr=False, eq=False)
class Letterboxed:
    """A split whose images come out as squares of one size, their boxes moved with them.

    Attributes:
        split: The images.
        square: Pixels of a side.

    >>> image = torch.zeros(3, 8, 16, dtype=torch.uint8)
    >>> data = Letterboxed(BoxSplit.of([image], [Boxes.of([((0, 0, 16, 8), 0)])]), 32)
    >>> data, data.boxes[0].corners.tolist()
    (Letterboxed(1 image of 32×32), [[0.0, 8.0, 32.0, 24.0]])
    """

    split: BoxSplit
    square: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.split)

    def __repr__(self) -> str:
        """Says how many images of which size."""
        return f"Letterboxed({len(self):,} image{'s' * (len(self) != 1)} of {self.square}×{self.square})"

    def __getitem__(self, index: int) -> Image:
        """The image at ``index`` in its square, and its boxes there."""
        pixels, _ = self.split[index]
        return Image(letterbox(pixels, self.square), self._boxes(index))

    def __iter__(self) -> Iterator[Image]:
        """All images in order."""
        return (self[index] for index in range(len(self)))

    def placement(self, index: int) -> Placement:
        """Where the image at ``index`` lies in its square."""
        return placement(self.split.sizes[index], self.square)

    @property
    def boxes(self) -> tuple[Boxes, ...]:
        """The boxes of every image in its square; no image is decoded for them."""
        return tuple(self._boxes(index) for index in range(len(self)))

    def _boxes(self, index: int) -> Boxes:
        boxes = self.split.boxes[index]
        return Boxes(self.placement(index).forward(boxes.corners), boxes.labels, boxes.ignored)

    def in_memory(self) -> BoxSplit:
        """All images decoded: 3 · square² bytes each."""
        images = [self[index].pixels for index in range(len(self))]
        return BoxSplit.of(images, self.boxes)


def collate(images: Sequence[Image]) -> tuple[Tensor, list[Boxes]]:
    """Images of one size as a batch: uint8 (B, 3, H, W), and the boxes of each; what a ``DataLoader`` wants.

    Raises:
        InputError: No image, or images of several sizes.
    """
    sizes = sorted({tuple(image.pixels.shape) for image in images})
    if len(sizes) != 1:
        got = ", ".join(map(str, sizes[:5])) or "none"
        raise InputError(f"collate wants images of one size (Letterboxed makes them so); got {got}.")
    return torch.stack([image.pixels for image in images]), [image.boxes for image in images]
