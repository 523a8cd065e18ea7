"""Image files to tensors: uint8, or float32 with the file's own numbers where a byte does not hold them.

Images of 16 bits, of 32 bits and of floating-point numbers keep their content: nothing is scaled or rounded here. How
they are brought to the range of other images is :func:`secateur.data.types.scale_of`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import DataError, InputError, first_line
from secateur.core.reading import opened

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "Kind", "decode", "decode_all", "decode_mask", "decode_whole", "probe", "size_of"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")

Shape = tuple[int, int, int]


_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM", "TIFF")
"""What the endings stand for. Pillow goes by the content and would start other programs for some formats."""

_DEEP = ("I", "F")  # and I;16 with its byte orders
_SMALL, _PIXELS_A_BYTE = 2**24, 200
"""Pixels that any file may have, and beyond them per byte of the file: photographs have at most 40."""


@dataclass(frozen=True)
class Kind:
    """What the files of a data set are decoded to.

    Attributes:
        shape: (C, H, W).
        deep: Whether they have more than 8 bits, and become float32.
    """

    shape: Shape
    deep: bool = False

    @property
    def bytes(self) -> int:
        """What one image takes."""
        return prod(self.shape) * (4 if self.deep else 1)


@contextmanager
def _open(path: Path) -> Iterator[Image.Image]:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError('Image files need Pillow: pip install "secateur[train]".') from error
    with opened(path, DataError) as file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except Exception as error:  # Pillow raises many types for damaged files
            raise _damaged(path, error) from error
        with image:
            _check(image, path, os.fstat(file.fileno()).st_size)
            yield image


def _check(image: Image.Image, path: Path, size: int) -> None:
    pixels = image.width * image.height
    if pixels > max(_SMALL, _PIXELS_A_BYTE * size):
        raise DataError(
            f"The image {path} says that it has {image.width:,} × {image.height:,} pixels, more than its {size:,} "
            "bytes can hold. Replace or remove it."
        )
    if any(_has_deep_colours(part) for tile in getattr(image, "tile", ()) for part in _parts(tile[3])):
        raise DataError(
            f"The image {path} has 16 bits per colour, of which 8 would be left in silence. Save it with 8 bits per "
            "colour, or its channels as grey images of 16 bits."
        )


def _parts(arguments: Any) -> tuple[Any, ...]:
    """How Pillow is going to decode a file: a name of the raw form, or a tuple that has it in it."""
    if not isinstance(arguments, tuple):
        return (arguments,)
    name, most = (*arguments, 0, 0)[:2]
    return (name, f"{name};16" if isinstance(most, int) and most > 255 else "")


def _has_deep_colours(raw: Any) -> bool:
    return isinstance(raw, str) and ";16" in raw and raw.startswith(("RGB", "LA", "CMYK", "BGR"))


def _is_deep(image: Image.Image) -> bool:
    return image.mode in _DEEP or image.mode.startswith("I;16")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"The image {path} is damaged or no image: {first_line(error)}. Replace or remove it.")


def probe(files: Sequence[Path], image_size: int | None) -> Kind:
    """What to decode a set of files to, judged by up to 64 of them.

    One channel if all are grey; the images' own size if they agree on one, else 224×224.

    Raises:
        DataError: A file is damaged, or some have 8 bits and others more, whose numbers do not compare.
    """
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(64, len(files))).astype(int)]
    sizes, grey = set(), True
    deep: dict[bool, Path] = {}
    for path in chosen:
        with _open(path) as image:
            sizes.add((image.height, image.width))
            deep.setdefault(_is_deep(image), path)
            grey = grey and (_is_deep(image) or image.mode in ("L", "1"))
    if len(deep) == 2:
        raise _mixed(deep[False], deep[True])
    own = sizes.pop() if len(sizes) == 1 else (224, 224)
    height, width = own if image_size is None else (image_size, image_size)
    return Kind(((1 if grey else 3), height, width), True in deep)


def _mixed(shallow: Path | str, deep: Path | str) -> DataError:
    return DataError(
        f"The image {shallow} has 8 bits and {deep} has more: their numbers do not compare. Save all images of a data "
        "set alike."
    )


def decode(path: Path, shape: Shape, *, deep: bool = False, crop_seed: str | None = None) -> Tensor:
    """Decodes one file to (C, H, W): scaled to cover H×W, then cropped.

    The crop is the centre, or with ``crop_seed`` a random part of 25 to 100 % of the area.

    Args:
        path: The file.
        shape: (C, H, W).
        deep: Whether a file of more than 8 bits is wanted: float32 with the file's own numbers; else uint8.
        crop_seed: Of the random part.

    Raises:
        DataError: The file is damaged, has the other depth, or holds NaN or infinity; the message names it.
    """
    channels, height, width = shape
    with _open(path) as image:
        if _is_deep(image) != deep:
            raise _other(path, deep)
        try:
            if crop_seed is None and image.format == "JPEG":
                image.draft(None, (width, height))  # decodes fewer pixels of large files
            pixels = _numbers(image, path) if deep else image.convert("L" if channels == 1 else "RGB")
            if crop_seed is not None:
                pixels = pixels.resize((width, height), box=_random_box(pixels.size, (width, height), crop_seed))
            elif pixels.size != (width, height):
                pixels = pixels.resize((width, height), box=_centre_box(pixels.size, (width, height)))
        except DataError:
            raise
        except Exception as error:
            raise _damaged(path, error) from error
        array = np.asarray(pixels, dtype=np.float32 if deep else np.uint8).reshape(height, width, -1)
    return torch.from_numpy(np.broadcast_to(array, (height, width, channels)).transpose(2, 0, 1).copy())


def size_of(path: Path) -> tuple[int, int]:
    """(H, W) of an image as it is stored, from the file's head alone; a camera's note of its rotation is not read.

    Raises:
        DataError: The file is missing, damaged or no image.
    """
    with _open(path) as image:
        return image.height, image.width


def decode_whole(path: Path) -> Tensor:
    """Decodes one file of 8 bits in its own size: uint8, (3, H, W); grey images three times the same.

    Raises:
        DataError: The file is damaged, or has more than 8 bits; the message names it.
    """
    with _open(path) as image:
        if _is_deep(image):
            raise DataError(f"The image {path} has more than 8 bits; save images with boxes with 8 bits per colour.")
        try:
            array = np.array(image.convert("RGB"))
        except Exception as error:
            raise _damaged(path, error) from error
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def decode_mask(path: Path) -> Tensor:
    """Decodes a mask: uint8, (H, W), the number that each pixel has in the file.

    Of an image with a palette these are the numbers of its colours, of a grey one of 8 bits the shades.

    Raises:
        DataError: The file is damaged, or has colours or more than 8 bits; the message names it.
    """
    with _open(path) as image:
        if image.mode not in ("P", "L", "1"):
            raise DataError(
                f"The mask {path} is an image of mode {image.mode}; wanted a PNG of 8 bits, grey or with a palette, "
                "whose pixels are the numbers of classes."
            )
        try:
            array = np.array(image).astype(np.uint8)
        except Exception as error:
            raise _damaged(path, error) from error
    return torch.from_numpy(array)


def _other(path: Path, deep: bool) -> DataError:
    has, others = ("8 bits", "more") if deep else ("more than 8 bits", "8")
    return DataError(
        f"The image {path} has {has} and other images of the data set have {others}: their numbers do not compare. "
        "Save all images of a data set alike."
    )


def _numbers(image: Image.Image, path: Path) -> Image.Image:
    """An image of float32 with the numbers of a deep one; it can be resized, which those of 16 bits cannot."""
    from PIL import Image

    array = np.asarray(image)
    if image.mode == "I" and image.format == "TIFF" and dict(getattr(image, "tag_v2", {})).get(_SAMPLE, (1,))[0] == 1:
        array = array.view(np.uint32)  # which Pillow gives as if it were signed
    numbers = array.astype(np.float32)
    if not np.isfinite(numbers).all():
        raise DataError(f"The image {path} holds NaN or infinity. Replace or remove it.")
    return Image.fromarray(numbers)


_SAMPLE = 339
"""TIFF's tag for what the numbers are: 1 for whole ones without a sign."""


Box = tuple[float, float, float, float]


def _centre_box(size: tuple[int, int], wanted: tuple[int, int]) -> Box:
    """The largest central part of an image with the wanted proportions."""
    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    width, height = wanted[0] * scale, wanted[1] * scale
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _random_box(size: tuple[int, int], wanted: tuple[int, int], seed: str) -> Box:
    """A part with 25–100 % of the area of the largest one with (roughly) the wanted proportions."""
    rng = random.Random(seed)
    scale = min(size[0] / wanted[0], size[1] / wanted[1])
    area, stretch = rng.uniform(0.25, 1.0), rng.uniform(0.866, 1.155)  # proportions of 3/4 to 4/3
    width = min(size[0], wanted[0] * scale * (area**0.5) * stretch)
    height = min(size[1], wanted[1] * scale * (area**0.5) / stretch)
    left, top = rng.uniform(0, size[0] - width), rng.uniform(0, size[1] - height)
    return left, top, left + width, top + height


def decode_all(files: Sequence[Path], kind: Kind) -> Tensor:
    """Decodes many files with a few threads (Pillow decodes outside the interpreter's lock).

    Returns:
        (N, C, H, W): uint8, or float32 for deep images.
    """
    images = torch.empty(len(files), *kind.shape, dtype=torch.float32 if kind.deep else torch.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + 256, len(files))):
            images[i] = decode(files[i], kind.shape, deep=kind.deep)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, len(files), 256)):
            pass
    return images
