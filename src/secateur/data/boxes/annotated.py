"""Images with boxes: what readers find in files, and the splits that come of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.decode import decode_whole

__all__ = ["BoxSet", "BoxSplit", "Boxes", "Corners", "Image"]

Corners = tuple[float, float, float, float]
"""x₁, y₁, x₂, y₂: left, top, right and bottom edge in pixels; the image's upper left corner is 0, 0."""


@arguments.checked
@dataclass(frozen=True, repr=False, eq=False)
class Boxes:
    """The objects of one image.

    Attributes:
        corners: float32, (N, 4): left, top, right, bottom edge in pixels.
        labels: int64, (N,).
        ignored: bool, (N,): what neither training nor a score should count, such as COCO's crowds and VOC's difficult
            objects.

    >>> boxes = Boxes.of([((1, 2, 5, 9), 0), ((0, 0, 4, 4), 2)])
    >>> len(boxes), boxes.labels.tolist(), boxes.areas.tolist()
    (2, [0, 2], [28.0, 16.0])
    """

    corners: Tensor
    labels: Tensor
    ignored: Tensor

    def __post_init__(self) -> None:
        """Checks types, shapes and values: with a corner that is no number, a loss would be none either."""
        count = len(self.labels) if self.labels.ndim == 1 else -1
        wanted = (("corners", torch.float32, (count, 4)), ("labels", torch.int64, (count,)),
                  ("ignored", torch.bool, (count,)))  # fmt: skip
        for name, dtype, shape in wanted:
            value: Tensor = getattr(self, name)
            if value.dtype != dtype or tuple(value.shape) != shape:
                raise InputError(
                    f"Boxes({name}=…) wants {dtype} of shape {'(N, 4)' if name == 'corners' else '(N,)'}, one entry a "
                    f"box; got {value.dtype} {tuple(value.shape)}."
                )
        if count and not bool(self.corners.isfinite().all()):
            raise InputError("Boxes(corners=…) wants finite numbers; got NaN or an infinite one.")
        if count and int(self.labels.min()) < 0:
            raise InputError(f"Boxes(labels=…) wants numbers of classes, from 0 on; got {int(self.labels.min())}.")

    @staticmethod
    def of(rows: Sequence[tuple[Sequence[float], int]], ignored: Sequence[bool] = ()) -> Boxes:
        """Boxes from pairs of corners and label."""
        corners = torch.tensor([list(corners) for corners, _ in rows], dtype=torch.float32).reshape(-1, 4)
        flags = torch.tensor(list(ignored) or [False] * len(rows), dtype=torch.bool)
        return Boxes(corners, torch.tensor([label for _, label in rows], dtype=torch.int64), flags)

    def __len__(self) -> int:
        """Number of boxes."""
        return len(self.labels)

    def __repr__(self) -> str:
        """Says how many."""
        return f"Boxes({len(self)})"

    @property
    def areas(self) -> Tensor:
        """float32, (N,), in square pixels."""
        return (self.corners[:, 2:] - self.corners[:, :2]).prod(1)

    def take(self, chosen: Tensor) -> Boxes:
        """Those at ``chosen``: positions, or one truth value a box."""
        return Boxes(self.corners[chosen], self.labels[chosen], self.ignored[chosen])

    @property
    def counted(self) -> Boxes:
        """Those that are not ignored."""
        return self.take(~self.ignored)


class Image(NamedTuple):
    """One image and its objects.

    Attributes:
        pixels: uint8, (3, H, W).
        boxes: Its objects.
    """

    pixels: Tensor
    boxes: Boxes


@dataclass(frozen=True, repr=False, eq=False)
class BoxSplit:
    """Images with boxes; those that are files are decoded when they are asked for.

    Attributes:
        images: A path, or uint8 (3, H, W) in memory, for each image.
        boxes: The objects of each image.
        sizes: (H, W) of each image.

    >>> split = BoxSplit.of([torch.zeros(3, 8, 12, dtype=torch.uint8)], [Boxes.of([((1, 2, 5, 8), 0)])])
    >>> pixels, boxes = split[0]
    >>> split, split.sizes, tuple(pixels.shape), boxes
    (BoxSplit(1 image, 1 box), ((8, 12),), (3, 8, 12), Boxes(1))
    """

    images: tuple[Path | Tensor, ...]
    boxes: tuple[Boxes, ...]
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Checks that there is one of each."""
        if not len(self.images) == len(self.boxes) == len(self.sizes):
            raise InputError(
                f"BoxSplit wants boxes and a size for every image; got {len(self.images)} images, {len(self.boxes)} "
                f"lists of boxes and {len(self.sizes)} sizes."
            )

    @staticmethod
    def of(images: Sequence[Tensor], boxes: Sequence[Boxes]) -> BoxSplit:
        """A split of images in memory: uint8, (3, H, W) each.

        Raises:
            InputError: An image of another kind, or another number of images than of lists of boxes.
        """
        for number, image in enumerate(images):
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
                got = f"{image.dtype} {tuple(image.shape)}"
                raise InputError(
                    f"BoxSplit.of(images=…) wants uint8 images of shape (3, H, W); image {number} is {got}."
                )
        sizes = tuple((int(image.shape[1]), int(image.shape[2])) for image in images)
        return BoxSplit(tuple(images), tuple(boxes), sizes)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Says how many images and boxes."""
        count = sum(map(len, self.boxes))
        images = f"{len(self):,} image{'s' * (len(self) != 1)}"
        return f"BoxSplit({images}, {count:,} box{'es' * (count != 1)})"

    def __getitem__(self, index: int) -> Image:
        """The image at ``index``, decoded, and its boxes.

        Raises:
            DataError: The file is damaged, or was changed since: it has another size than when it was read first.
        """
        source = self.images[index]
        if isinstance(source, Tensor):
            return Image(source, self.boxes[index])
        pixels = decode_whole(source)
        if tuple(pixels.shape[1:]) != self.sizes[index]:
            (height, width), (_, now_height, now_width) = self.sizes[index], pixels.shape
            raise DataError(
                f"The image {source} had {width} × {height} pixels when its boxes were read, and now has {now_width} × "
                f"{now_height}."
            )
        return Image(pixels, self.boxes[index])

    def __iter__(self) -> Iterator[Image]:
        """All images in order."""
        return (self[index] for index in range(len(self)))

    def subset(self, indices: Sequence[int]) -> BoxSplit:
        """The images at ``indices``."""
        parts = ([values[i] for i in indices] for values in (self.images, self.boxes, self.sizes))
        images, boxes, sizes = parts
        return BoxSplit(tuple(images), tuple(boxes), tuple(sizes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class BoxSet:
    """Training, validation and test images with boxes.

    Attributes:
        name: For instance ``bccd-voc``.
        classes: Class names; label ``i`` means ``classes[i]``.
        train: Images to train on.
        validation: Images held out of them; may be empty.
        test: Images that no decision is based on.
        source: Where the images came from: a path as given.
        mended: What was left out or clipped, one sentence each; empty unless that was asked for.
    """

    name: str
    classes: tuple[str, ...]
    train: BoxSplit
    validation: BoxSplit
    test: BoxSplit
    source: str = ""
    mended: tuple[str, ...] = ()
