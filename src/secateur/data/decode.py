"""Image files to uint8 tensors."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError, InputError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["SUFFIXES", "decode", "decode_all", "probe"]

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".ppm", ".pgm", ".tif", ".tiff")

Shape = tuple[int, int, int]


def _open(path: Path) -> Image.Image:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError('Image files need Pillow: pip install "secateur[train]".') from error
    try:
        return Image.open(path)
    except Exception as error:  # Pillow raises many types for damaged files
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error) or type(error).__name__
    return DataError(f"The image {path} is damaged or no image: {reason}. Replace or remove it.")


def probe(files: Sequence[Path], image_size: int | None) -> Shape:
    """(C, H, W) to decode a set of files to, judged by up to 64 of them.

    One channel if all are grey; the images' own size if they agree on one, else 224×224.
    """
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(64, len(files))).astype(int)]
    sizes, grey = set(), True
    for path in chosen:
        with _open(path) as image:
            sizes.add((image.height, image.width))
            grey = grey and image.mode in ("L", "1", "I;16")
    own = sizes.pop() if len(sizes) == 1 else (224, 224)
    height, width = own if image_size is None else (image_size, image_size)
    return (1 if grey else 3), height, width


def decode(path: Path, shape: Shape, *, crop_seed: str | None = None) -> Tensor:
    """Decodes one file to uint8 (C, H, W): scaled to cover H×W, then cropped.

    The crop is the centre, or with ``crop_seed`` a random part of 25 to 100 % of the area.

    Raises:
        DataError: The file is damaged; the message names it.
    """
    channels, height, width = shape
    image = _open(path)
    try:
        with image:
            if crop_seed is None and image.format == "JPEG":
                image.draft(None, (width, height))  # decodes fewer pixels of large files
            pixels = image.convert("L" if channels == 1 else "RGB")
        if crop_seed is not None:
            pixels = pixels.resize((width, height), box=_random_box(pixels.size, (width, height), crop_seed))
        elif pixels.size != (width, height):
            pixels = pixels.resize((width, height), box=_centre_box(pixels.size, (width, height)))
    except Exception as error:
        raise _damaged(path, error) from error
    array = np.asarray(pixels, dtype=np.uint8).reshape(height, width, channels)
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


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


def decode_all(files: Sequence[Path], shape: Shape) -> Tensor:
    """Decodes many files with a few threads (Pillow decodes outside the interpreter's lock).

    Returns:
        uint8, (N, C, H, W).
    """
    images = torch.empty(len(files), *shape, dtype=torch.uint8)

    def fill(start: int) -> None:
        for i in range(start, min(start + 256, len(files))):
            images[i] = decode(files[i], shape)

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(0, len(files), 256)):
            pass
    return images
