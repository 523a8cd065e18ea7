"""Augmentation of images with boxes, by torchvision's transforms: flip, scale and shift, colour, mosaic.

All random numbers come from one generator that is handed in, so that an epoch can be had again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from secateur.core.errors import InputError
from secateur.data.boxes import Boxes, Image
from secateur.data.boxes.letterbox import GREY
from secateur.models import import_torchvision

__all__ = ["BoxAugment"]


@dataclass(frozen=True)
class BoxAugment:
    """Changes an image and its boxes alike.

    Attributes:
        flip: Share of images that are mirrored.
        scale: An image is scaled by a factor within 1 ± this.
        shift: … and moved by up to this share of its sides.
        colour: Brightness, contrast and saturation by a factor within 1 ± this; hue by a tenth of it.
        mosaic: Share of images that are put together from parts of four.
        visible: A box goes when less than this share of its area is left in the image.

    >>> image = Image(torch.zeros(3, 32, 32, dtype=torch.uint8), Boxes.of([((2, 4, 10, 20), 0)]))
    >>> mirrored = BoxAugment(flip=1.0, scale=0, shift=0, colour=0)(image, torch.Generator())
    >>> mirrored.boxes.corners.tolist()
    [[22.0, 4.0, 30.0, 20.0]]
    """

    flip: float = 0.5
    scale: float = 0.3
    shift: float = 0.1
    colour: float = 0.3
    mosaic: float = 0.0
    visible: float = 0.25

    def __post_init__(self) -> None:
        """Checks that everything is a share."""
        for name in ("flip", "scale", "shift", "colour", "mosaic", "visible"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1 or (name == "scale" and value == 1):
                raise InputError(f"BoxAugment({name}=…) is a share in 0…1 (scale below 1); got {value!r}.")

    def __call__(self, image: Image, generator: torch.Generator, others: Sequence[Image] = ()) -> Image:
        """One image, changed.

        Args:
            image: Pixels and boxes.
            generator: Where random numbers come from.
            others: Images of the same size to make a mosaic of; without three of them there is none.
        """
        functional = import_torchvision_functional()
        if len(others) >= 3 and _draw(generator) < self.mosaic:
            image = self._mosaic([image, *others[:3]], generator)
        if _draw(generator) < self.flip:
            image = _changed(functional, functional.horizontal_flip, image)
        if self.scale or self.shift:
            image = self._moved(functional, image, generator)
        return Image(self._coloured(functional, image.pixels, generator), image.boxes)

    def _moved(self, functional: ModuleType, image: Image, generator: torch.Generator) -> Image:
        height, width = image.pixels.shape[1:]
        scale = _around(self.scale, generator)
        shift = [round(side * self.shift * (2 * _draw(generator) - 1)) for side in (width, height)]

        def move(value: Tensor) -> Tensor:
            bilinear = import_torchvision().transforms.InterpolationMode.BILINEAR
            moved: Tensor = functional.affine(
                value, angle=0.0, translate=shift, scale=scale, shear=[0.0, 0.0], interpolation=bilinear, fill=GREY
            )
            return moved

        before = image.boxes.areas * scale**2
        return self._kept(_changed(functional, move, image), before)

    def _kept(self, image: Image, before: Tensor) -> Image:
        """Without the boxes of which too little is in the image; the others are cut at its edge."""
        height, width = image.pixels.shape[1:]
        limit = torch.tensor([width, height, width, height], dtype=torch.float32)
        corners = torch.minimum(image.boxes.corners.clamp(min=0), limit)
        boxes = Boxes(corners, image.boxes.labels, image.boxes.ignored)
        left = boxes.areas / before.clamp(min=1e-9)
        return Image(image.pixels, boxes.take((left >= self.visible) & (boxes.areas > 1)))

    def _coloured(self, functional: ModuleType, pixels: Tensor, generator: torch.Generator) -> Tensor:
        if not self.colour:
            return pixels
        for change in (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation):
            pixels = change(pixels, _around(self.colour, generator))
        hue = self.colour / 10 * (2 * _draw(generator) - 1)
        changed: Tensor = functional.adjust_hue(pixels, hue)
        return changed

    def _mosaic(self, images: Sequence[Image], generator: torch.Generator) -> Image:
        """Four images around a point near the middle; each shows the part of it that reaches there."""
        sizes = {tuple(image.pixels.shape) for image in images}
        if len(sizes) != 1:
            raise InputError(f"A mosaic wants images of one size; got {', '.join(map(str, sorted(sizes)))}.")
        height, width = images[0].pixels.shape[1:]
        x, y = (round(side * (0.3 + 0.4 * _draw(generator))) for side in (width, height))
        canvas, parts = torch.empty_like(images[0].pixels), []
        for index, image in enumerate(images):
            right, lower = index % 2, index // 2
            columns = slice(x, width) if right else slice(0, x)
            rows = slice(y, height) if lower else slice(0, y)
            left, top = (x if right else x - width), (y if lower else y - height)
            canvas[:, rows, columns] = image.pixels[
                :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
            parts.append(self._part(image, (left, top), (columns, rows)))
        fields = (torch.cat([getattr(part, name) for part in parts]) for name in ("corners", "labels", "ignored"))
        return Image(canvas, Boxes(*fields))

    def _part(self, image: Image, origin: tuple[int, int], window: tuple[slice, slice]) -> Boxes:
        """The boxes of one image of a mosaic, cut at its part's edge."""
        columns, rows = window
        low = torch.tensor([columns.start, rows.start] * 2, dtype=torch.float32)
        high = torch.tensor([columns.stop, rows.stop] * 2, dtype=torch.float32)
        moved = image.boxes.corners + torch.tensor(origin * 2, dtype=torch.float32)
        boxes = Boxes(torch.minimum(torch.maximum(moved, low), high), image.boxes.labels, image.boxes.ignored)
        enough = boxes.areas >= self.visible * image.boxes.areas
        return boxes.take(enough & (boxes.areas > 1))


def import_torchvision_functional() -> ModuleType:
    """``torchvision.transforms.v2.functional``, also beside a PyTorch that its operators do not fit."""
    import_torchvision()
    from torchvision.transforms.v2 import functional

    module: ModuleType = functional
    return module


def _draw(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator))


def _around(share: float, generator: torch.Generator) -> float:
    return 1 + share * (2 * _draw(generator) - 1)


def _changed(functional: ModuleType, change: object, image: Image) -> Image:
    """Applies one of torchvision's geometric functions to pixels and boxes."""
    from torchvision import tv_tensors

    size = tuple(image.pixels.shape[1:])
    boxes = tv_tensors.BoundingBoxes(image.boxes.corners, format="XYXY", canvas_size=size, clamping_mode=None)
    assert callable(change)
    corners = change(boxes).as_subclass(Tensor)
    return Image(change(image.pixels), Boxes(corners, image.boxes.labels, image.boxes.ignored))
