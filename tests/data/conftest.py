"""Small data sets written to disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


def colour(label: int, number: int) -> tuple[int, int, int]:
    return (40 * label + 20, 10 * number, 200 - 30 * label)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Writes an image folder: ``parts`` of ``classes`` of ``count`` single-coloured PNGs."""

    def make(
        name: str = "pictures",
        parts: tuple[str, ...] = ("train", "test"),
        classes: tuple[str, ...] = ("cat", "dog"),
        count: int = 6,
        size: tuple[int, int] = (12, 8),
    ) -> Path:
        root = tmp_path / name
        for part in parts:
            for label, class_name in enumerate(classes):
                folder = root / part / class_name
                folder.mkdir(parents=True)
                for number in range(count):
                    pixels = np.full((size[1], size[0], 3), colour(label, number), np.uint8)
                    Image.fromarray(pixels).save(folder / f"{number:03}.png")
        return root

    return make
