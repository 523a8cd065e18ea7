"""What images with masks are, and those that need no download: digits pasted on a canvas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.boxes.canvas import drawn_canvases
from secateur.data.decode import decode_mask, decode_whole

__all__ = ["IGNORED", "MaskSet", "MaskSplit", "MaskedImage", "digits_with_masks"]

IGNORED = 255
"""The value of a mask's pixel that neither training nor a score counts."""


class MaskedImage(NamedTuple):
    """One image and the class of every pixel.

    Attributes:
        pixels: uint8, (3, H, W).
        mask: uint8, (H, W): the pixel's class, or 255 where it is ignored.
    """

    pixels: Tensor
    mask: Tensor


@dataclass(frozen=True, repr=False, eq=False)
class MaskSplit:
    """Images with masks; those that are files are decoded when they are asked for.

    Attributes:
        images: A path, or uint8 (3, H, W) in memory, for each image.
        masks: A path, or uint8 (H, W) in memory, for each image.
        sizes: (H, W) of each image.

    >>> split = MaskSplit.of([torch.zeros(3, 8, 12, dtype=torch.uint8)], [torch.ones(8, 12, dtype=torch.uint8)])
    >>> split, tuple(split[0].mask.shape)
    (MaskSplit(1 image), (8, 12))
    """

    images: tuple[Path | Tensor, ...]
    masks: tuple[Path | Tensor, ...]
    sizes: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Checks that there is one of each."""
        if not len(self.images) == len(self.masks) == len(self.sizes):
            raise InputError(
                f"MaskSplit wants a mask and a size for every image; got {len(self.images)} images, {len(self.masks)} "
                f"masks and {len(self.sizes)} sizes."
            )

    @staticmethod
    def of(images: Sequence[Tensor], masks: Sequence[Tensor]) -> MaskSplit:
        """A split in memory: uint8 images (3, H, W) and uint8 masks (H, W).

        Raises:
            InputError: An image or mask of another kind, or a mask of another size than its image.
        """
        for number, (image, mask) in enumerate(zip(images, masks, strict=False)):
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
                got = f"{image.dtype} {tuple(image.shape)}"
                raise InputError(f"MaskSplit.of(images=…) wants uint8 (3, H, W); image {number} is {got}.")
            if mask.shape != image.shape[1:] or mask.dtype != torch.uint8:
                got = f"{mask.dtype} {tuple(mask.shape)}"
                raise InputError(
                    f"MaskSplit.of(masks=…) wants uint8 masks of their image's size {tuple(image.shape[1:])}; mask "
                    f"{number} is {got}."
                )
        sizes = tuple((int(image.shape[1]), int(image.shape[2])) for image in images)
        return MaskSplit(tuple(images), tuple(masks), sizes)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Says how many."""
        return f"MaskSplit({len(self):,} image{'s' * (len(self) != 1)})"

    def __getitem__(self, index: int) -> MaskedImage:
        """The image at ``index`` and its mask, decoded.

        Raises:
            DataError: A file is damaged, or a mask has another size than its image.
        """
        image, mask = self.images[index], self.masks[index]
        pixels = image if isinstance(image, Tensor) else decode_whole(image)
        classes = mask if isinstance(mask, Tensor) else decode_mask(mask)
        if classes.shape != pixels.shape[1:]:
            (height, width), (mask_height, mask_width) = pixels.shape[1:], classes.shape
            raise DataError(
                f"The mask {mask} has {mask_width} × {mask_height} pixels, and its image {width} × {height}."
            )
        return MaskedImage(pixels, classes)

    def subset(self, indices: Sequence[int]) -> MaskSplit:
        """The images at ``indices``."""
        return MaskSplit(
            tuple(self.images[i] for i in indices),
            tuple(self.masks[i] for i in indices),
            tuple(self.sizes[i] for i in indices),
        )


@dataclass(frozen=True)
class MaskSet:
    """Training, validation and test images with masks.

    Attributes:
        name: For instance ``digits-with-masks``.
        classes: Class names; a mask's value ``i`` means ``classes[i]``.
        train: Images to train on.
        validation: Images held out of them; may be empty.
        test: Images that no decision is based on.
        source: Where the images came from: a path as given, or ``embedded``.
    """

    name: str
    classes: tuple[str, ...]
    train: MaskSplit
    validation: MaskSplit
    test: MaskSplit
    source: str = ""


@arguments.checked
def digits_with_masks(
    train: int = 400, validation: int = 50, test: int = 100, *, side: int = 64, seed: int = 0
) -> MaskSet:
    """The images of :func:`secateur.data.boxes.digits_on_canvas`, with the class of every pixel.

    Class 0 is the background, and a digit's bright pixels have its number plus 1: eleven classes.

    Args:
        train: How many images to train on.
        validation: How many are held out of them.
        test: How many test images.
        side: Pixels of an image's side, at least 32.
        seed: Of everything that is drawn.

    >>> data = digits_with_masks(2, 1, 1)
    >>> data.train.sizes, len(data.classes)
    (((64, 64), (64, 64)), 11)
    """
    classes, parts = drawn_canvases(train, validation, test, side=side, seed=seed)
    one, two, three = (MaskSplit.of([c.pixels for c in part], [c.mask for c in part]) for part in parts)
    return MaskSet("digits-with-masks", ("background", *classes), one, two, three, source="embedded")
