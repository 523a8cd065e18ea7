"""What a task shows of its networks in a report: test samples with what was found in them, and curves."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from torch import Tensor

from secateur.core.errors import InputError

__all__ = ["Chart", "Line", "Mark", "Picture", "Shown", "png"]


@dataclass(frozen=True)
class Mark:
    """A box in a picture.

    Attributes:
        corners: Left, top, right and bottom edge, in pixels of the picture.
        label: What is in it.
        score: How sure the network is, in 0…1; ``None`` for what the labels say.
    """

    corners: tuple[float, float, float, float]
    label: str
    score: float | None = None


@dataclass(frozen=True)
class Picture:
    """A test sample as one network sees it.

    Attributes:
        title: Which sample; pictures of one title stand side by side.
        role: ``labels`` for what is there, else the network's: ``dense``, ``pruned``.
        png: The picture, base64.
        width: In pixels.
        height: In pixels.
        marks: What was found.
    """

    title: str
    role: str
    png: str
    width: int
    height: int
    marks: tuple[Mark, ...] = ()


@dataclass(frozen=True)
class Line:
    """One network's line in a chart."""

    role: str
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Chart:
    """A chart with a line for every network.

    Attributes:
        title: Above it.
        x: What runs from left to right.
        y: What runs upwards.
        lines: By network.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Shown:
    """What a task shows.

    Attributes:
        pictures: In the order of the report.
        charts: Likewise.
        headers: Of a table; the roles of networks where its columns are theirs.
        rows: Of the table.
        hint: A sentence below the pictures.
    """

    pictures: tuple[Picture, ...] = ()
    charts: tuple[Chart, ...] = ()
    headers: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    hint: str = ""


def png(pixels: Tensor) -> str:
    """An image as a PNG file in base64.

    Args:
        pixels: uint8, (3, H, W) or (1, H, W).

    Raises:
        InputError: Pillow is missing, or it is no such image.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError('Pictures in the report need Pillow: pip install "secateur[train]".') from error
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise InputError(f"png(pixels=…) wants an image of 1 or 3 channels, (C, H, W); got {tuple(pixels.shape)}.")
    file = io.BytesIO()
    array = pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().cpu().numpy()
    Image.fromarray(array).save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")
