"""What a reader is asked for and what it returns, before splits, limits and statistics."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from secateur.data.types import AnySplit

__all__ = ["Raw", "Request"]


@dataclass(frozen=True)
class Request:
    """What a reader gets.

    Attributes:
        path: As given after the name; ``None`` if nothing was.
        cache: Folder for unpacked archives and decoded images; made on demand.
        image_size: Side in pixels to decode to, or ``None`` for the images' own.
        digest: SHA-256 of the archive that ``path`` was unpacked from, if it was.
        name: What to call the data set, where the path no longer tells.
    """

    path: Path | None
    cache: Path
    image_size: int | None = None
    digest: str | None = None
    name: str = ""


@dataclass(frozen=True)
class Raw:
    """What a reader returns; a missing test or validation part is split off later.

    Attributes:
        name: Of the data set.
        classes: Class names.
        train: Training images.
        test: Test images, or ``None``.
        validation: Validation images, or ``None``.
        pad: Default augmentation: padding before the random crop.
        flip: Default augmentation: mirroring.
    """

    name: str
    classes: tuple[str, ...]
    train: AnySplit
    test: AnySplit | None = None
    validation: AnySplit | None = None
    pad: int = 0
    flip: bool = False
