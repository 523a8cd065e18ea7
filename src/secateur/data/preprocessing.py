"""How an image file becomes what a network is called with, as plain data that other programs can follow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from secateur.core import arguments
from secateur.core.errors import InputError
from secateur.data.types import AnySplit, DataSet

__all__ = ["FITS", "Preprocessing"]

FITS = ("crop", "letterbox")


@arguments.checked
@dataclass(frozen=True)
class Preprocessing:
    """From an image file of 8 bits to the network's input: decoded, fitted, ``(pixels / scale − mean) / std``.

    The result is float32, (1, C, H, W); colours are in the order red, green, blue.

    Attributes:
        size: (H, W) of the input.
        channels: 3 for red, green, blue; 1 for grey.
        mean: Per channel, of pixels divided by ``scale``.
        std: Per channel, of pixels divided by ``scale``.
        scale: What pixels are divided by.
        fit: ``crop``: the largest central part with the proportions of ``size``, scaled to it by Pillow's bicubic
            filter; ``letterbox``: the whole image, scaled in its own proportions by a bilinear filter, in the middle,
            with ``fill`` beside it.
        fill: The shade beside a letterboxed image, 0 to 255.

    Raises:
        InputError: Numbers that describe no input.

    >>> Preprocessing(size=(8, 8), channels=1, mean=(0.3,), std=(0.4,)).to_json()["channels"]
    'L'
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0
    fit: str = "crop"
    fill: int = 128

    def __post_init__(self) -> None:
        """Checks what the numbers say."""
        if min(self.size) < 1 or self.channels not in (1, 3):
            raise InputError(
                f"Preprocessing wants a size of at least 1×1 and 1 or 3 channels; got {self.size} and {self.channels}."
            )
        if self.fit not in FITS:
            raise InputError(f"Preprocessing(fit=…) is one of {', '.join(FITS)}; got {self.fit!r}.")
        if self.fit == "letterbox" and self.size[0] != self.size[1]:
            raise InputError(f"Preprocessing(fit='letterbox') puts images into squares; got the size {self.size}.")
        sound = all(map(math.isfinite, (*self.mean, *self.std, self.scale))) and min(*self.std, self.scale) > 0
        if len(self.mean) != self.channels or len(self.std) != self.channels or not sound:
            raise InputError(
                f"Preprocessing wants a mean and a positive standard deviation for each of {self.channels} channels "
                f"and a positive scale; got mean {self.mean}, std {self.std} and scale {self.scale}."
            )
        if not 0 <= self.fill <= 255:
            raise InputError(f"Preprocessing(fill=…) is a shade from 0 to 255; got {self.fill}.")

    @staticmethod
    def of(data: DataSet) -> Preprocessing | None:
        """How the files of a data set of images are prepared.

        Returns:
            ``None`` where its samples are no images of 8 bits: spectrograms, or images of more bits.
        """
        channels, height, width = data.shape
        if channels not in (1, 3) or not all(map(_of_bytes, (data.train, data.validation, data.test))):
            return None
        return Preprocessing((height, width), channels, tuple(data.mean), tuple(data.std), data.scale)

    def to_json(self) -> dict[str, Any]:
        """What ``preprocessing.json`` and the metadata of files hold; see docs/exporting.md."""
        found: dict[str, Any] = {
            "height": self.size[0],
            "width": self.size[1],
            "channels": "L" if self.channels == 1 else "RGB",
            "layout": "NCHW",
            "fit": self.fit,
            "scale": self.scale,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return {**found, "fill": self.fill} if self.fit == "letterbox" else found


def _of_bytes(split: AnySplit) -> bool:
    """Whether a split's images have 8 bits; files are not decoded for it, as they say it themselves."""
    deep = getattr(split, "deep", None)
    if deep is not None or not len(split):
        return not deep
    first, _ = next(iter(split.batches(1, order=torch.tensor([0]))))
    return first.dtype == torch.uint8
