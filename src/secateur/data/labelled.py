"""Images with several labels: a CSV file beside them says which labels each has; digits on a canvas are embedded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.boxes.canvas import drawn_canvases
from secateur.data.cache import cache_folder
from secateur.data.decode import decode_whole
from secateur.data.folder import opened, stem
from secateur.data.numbers import read_fields
from secateur.data.raw import Request

__all__ = ["LabelSet", "LabelSplit", "digits_with_labels", "load_labels"]

_TABLE = "labels.csv"


@dataclass(frozen=True, repr=False, eq=False)
class LabelSplit:
    """Images with any number of labels; those that are files are decoded when they are asked for.

    Attributes:
        images: A path, or uint8 (3, H, W) in memory, for each image.
        labels: int64, (N, classes): 1 for the labels that an image has, else 0.
    """

    images: tuple[Path | Tensor, ...]
    labels: Tensor

    def __post_init__(self) -> None:
        """Checks types and shapes."""
        value = self.labels
        if value.ndim != 2 or len(value) != len(self.images) or value.dtype != torch.int64:
            got = f"{value.dtype} {tuple(value.shape)} for {len(self.images)} images"
            raise InputError(f"LabelSplit(labels=…) wants int64 (N, classes), one row an image; got {got}.")
        if value.numel() and not bool(((value == 0) | (value == 1)).all()):
            raise InputError("LabelSplit(labels=…) wants 1 for the labels that an image has, and 0.")

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def __repr__(self) -> str:
        """Says how many."""
        return f"LabelSplit({len(self):,} images)"

    def pixels(self, index: int) -> Tensor:
        """uint8, (3, H, W).

        Raises:
            DataError: The file is damaged.
        """
        image = self.images[index]
        return image if isinstance(image, Tensor) else decode_whole(image)

    def take(self, index: Tensor) -> LabelSplit:
        """The images at ``index``."""
        return LabelSplit(tuple(self.images[i] for i in index.tolist()), self.labels[index])


@dataclass(frozen=True)
class LabelSet:
    """Training, validation and test images with several labels.

    Attributes:
        name: For instance ``digits-with-labels``.
        classes: Names of the labels, in the order of their columns.
        train: Images to train on.
        validation: Images held out of them; may be empty.
        test: Images that no decision is based on.
        source: Where they came from: a path as given, or ``embedded``.
    """

    name: str
    classes: tuple[str, ...]
    train: LabelSplit
    validation: LabelSplit
    test: LabelSplit
    source: str = ""


@arguments.checked
def load_labels(
    path: str | Path,
    *,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
) -> LabelSet:
    """Loads a folder with ``labels.csv``: a header ``image,NAME,NAME,…``, and per image its path there and 0 or 1 each.

    A fixed fifth of the images is the test part, and a share of the rest is held out by ``seed``.

    Args:
        path: The folder, or a tar or zip of one.
        validation: Share of the training images that is held out.
        seed: Of that choice.
        limit: Use at most this many training and test images.
        cache_dir: Where archives are unpacked; see :func:`secateur.data.load`.

    Raises:
        DataError: Files are missing, damaged or unsafe, or a field is neither 0 nor 1; the message names the line.
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    root = opened(Request(Path(path), cache_folder(cache_dir))).path
    assert root is not None
    table = next((p for p in (root / _TABLE, *sorted(root.glob(f"*/{_TABLE}"))) if p.is_file()), None)
    if table is None:
        raise DataError(f"{path} has no {_TABLE}, which says what labels every image has.")
    every, classes = _read(table)
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    test, rest = order[: round(0.2 * len(order))][:limit], order[round(0.2 * len(order)) :][:limit]
    held = torch.randperm(len(rest), generator=torch.Generator().manual_seed(seed)) < round(validation * len(rest))
    parts = [every.take(part.sort().values) for part in (rest[~held], rest[held], test)]
    if not len(parts[0]) or not len(parts[2]):
        raise DataError(f"{table} has {len(every)} images; at least 5 are needed to train and to test with.")
    return LabelSet(stem(Path(path)), classes, parts[0], parts[1], parts[2], str(path))


def _read(table: Path) -> tuple[LabelSplit, tuple[str, ...]]:
    (_, *classes), rows = read_fields(table)
    if not classes:
        raise DataError(f"{table}, line 1: wanted image and the names of labels.")
    images, labels, lines = [], [], dict[str, int]()
    for line, (name, *marks) in rows:
        place = PurePosixPath(name.strip())
        if place.is_absolute() or ".." in place.parts or "\0" in name or not (table.parent / place).is_file():
            raise DataError(f"{table}, line {line}: there is no image {name[:80]!r} in {table.parent}.")
        if str(place) in lines:
            raise DataError(f"{table}, line {line}: the image {name[:80]!r} was in line {lines[str(place)]} already.")
        lines[str(place)] = line
        images.append(table.parent / place)
        labels.append(
            [_mark(mark, f"{table}, line {line}, column {c}") for mark, c in zip(marks, classes, strict=True)]
        )
    return LabelSplit(tuple(images), torch.tensor(labels, dtype=torch.int64).reshape(len(images), -1)), tuple(classes)


def _mark(mark: str, where: str) -> int:
    if mark.strip() not in ("0", "1"):
        raise DataError(f"{where}: wanted 0 or 1; got {mark[:40]!r}.")
    return int(mark)


def digits_with_labels(
    train: int = 400, validation: int = 50, test: int = 100, *, side: int = 64, seed: int = 0
) -> LabelSet:
    """The images of :func:`secateur.data.boxes.digits_on_canvas`; the labels are the digits that are on them.

    Args:
        train: How many images to train on.
        validation: How many are held out of them.
        test: How many test images.
        side: Pixels of an image's side, at least 32.
        seed: Of everything that is drawn.
    """
    classes, parts = drawn_canvases(train, validation, test, side=side, seed=seed)
    splits = [
        LabelSplit(tuple(c.pixels for c in part), _present([c.boxes.labels for c in part], len(classes)))
        for part in parts
    ]
    return LabelSet("digits-with-labels", classes, splits[0], splits[1], splits[2], "embedded")


def _present(found: Sequence[Tensor], classes: int) -> Tensor:
    made = torch.zeros(len(found), classes, dtype=torch.int64)
    for row, labels in zip(made, found, strict=True):
        row[labels] = 1
    return made
