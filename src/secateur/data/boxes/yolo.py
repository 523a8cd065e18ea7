"""YOLO text: one file an image with lines of class, centre and size as shares of the image, and a ``data.yaml``.

A line of more numbers is the outline of an object, x and y in turn, of which the box is taken.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from secateur.core.errors import DataError, InputError
from secateur.core.reading import read_text
from secateur.core.yamltree import parse
from secateur.data.boxes.found import Described, Faults, Found, Labelled, inside, nameable
from secateur.data.decode import SUFFIXES, size_of

__all__ = ["is_yolo", "read_yolo"]

_LARGEST = 16 * 2**20  # bytes of a file of text
_MOST_CLASSES = 100_000
_YAML = (".yaml", ".yml")
_PARTS = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}
_NO_LABELS = ("classes.txt", "labels.txt", "readme.txt", "train.txt", "val.txt", "valid.txt", "test.txt", "license.txt")


def is_yolo(root: Path) -> bool:
    """Whether a folder has a YAML file that names classes, or a ``classes.txt``."""
    return bool(_yamls(root)) or (root / "classes.txt").is_file()


def read_yolo(root: Path, faults: Faults) -> Found:
    """Reads the parts that a YAML file names, or, beside a ``classes.txt``, every image below ``root``.

    The labels of ``images/a/b.jpg`` lie in ``labels/a/b.txt``, or beside it where no folder is called ``images``. An
    image without such a file has no objects; a file without an image is a fault.

    Raises:
        DataError: A file is damaged, or names another one outside of the folder.
    """
    parts, classes = _described(root)
    reader = _Reader(root if root.is_dir() else root.parent, classes, faults)
    found: dict[str, list[Described]] = {}
    for part, places in parts.items():
        images = [(image, where) for path, where in places for image in _images(reader.home, path, where)]
        if images:
            found[part] = [reader.described(image, where) for image, where in images]
    reader.note_labels_without_images()
    return Found(found, classes)


# ------------------------------------------------------------------------------------------- what the YAML file says


def _yamls(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    found = [path for path in sorted(root.iterdir()) if path.suffix in _YAML and path.is_file()]
    return [path for path in found if "names:" in read_text(path, DataError, largest=_LARGEST)]


Places = list[tuple[str, str]]
"""Paths as a YAML file has them, and the line that does."""


def _described(root: Path) -> tuple[dict[str, Places], tuple[str, ...]]:
    """What the images of each part are, and the classes."""
    yamls = _yamls(root)
    if not yamls:
        return {"train": [("", str(root / "classes.txt"))]}, _lines(root / "classes.txt")
    if len(yamls) > 1:
        raise DataError(
            f"{root} has several YAML files with names ({', '.join(p.name for p in yamls)}): give one's path."
        )
    (path,) = yamls
    try:
        tree = parse(read_text(path, DataError, largest=_LARGEST), str(path), kind="data file",
                     wants="a mapping with names, train and val")  # fmt: skip
    except InputError as error:
        raise DataError(str(error)) from error
    parts: dict[str, Places] = {}
    for key, part in _PARTS.items():
        given = tree.data.get(key)
        if given:
            parts.setdefault(part, []).extend((p, tree.where((key,))) for p in _paths(given, tree.where((key,))))
    if not parts:
        raise DataError(f"{path} names no images: it has neither train nor val nor test.")
    base = str(tree.data.get("path") or "")
    return {k: [(_based(path.parent, base, p), where) for p, where in v] for k, v in parts.items()}, _classes(
        tree.data, tree.where(("names",))
    )


def _lines(path: Path) -> tuple[str, ...]:
    """Names of classes, one a line; an empty line between them would move the numbers of all behind it."""
    names = [line.strip() for line in read_text(path, DataError, largest=_LARGEST).rstrip().splitlines()]
    if "" in names:
        raise DataError(f"{path}, line {names.index('') + 1}: there is no name for the class of this number.")
    return tuple(names)


def _paths(given: Any, where: str) -> list[str]:
    listed = given if isinstance(given, list) else [given]
    if not all(isinstance(path, str) for path in listed):
        raise DataError(f"{where}: wanted a folder, a list file, or a list of them; got {str(given)[:60]!r}.")
    return listed


def _based(folder: Path, base: str, path: str) -> str:
    """A path with the YAML's ``path`` before it, where that folder is here: it often says where the author had it."""
    joined = PurePosixPath(base) / path
    lies_here = not joined.is_absolute() and ".." not in joined.parts and nameable(folder / joined)
    here = base and lies_here and (folder / joined).exists()
    return str(joined) if here else path


def _classes(data: dict[str, Any], where: str) -> tuple[str, ...]:
    names = data.get("names")
    if isinstance(names, dict):
        count = len(names)
        if count > _MOST_CLASSES or set(names) != set(range(count)):
            raise DataError(
                f"{where}: names wants the numbers from 0 to {count - 1}; got {str(sorted(names, key=str))[:60]}."
            )
        names = [names[i] for i in range(count)]
    if not isinstance(names, list) or not names or any(isinstance(name, (list, dict)) for name in names):
        raise DataError(f"{where}: names wants a list of class names, or numbers from 0 with their names.")
    return tuple(str(name) for name in names)


def _images(home: Path, path: str, where: str) -> Iterator[Path]:
    """Image files in a folder, or those that a list names."""
    place = _place(home, path, where)
    if place.is_dir():
        for folder, folders, files in os.walk(place):
            folders.sort()
            yield from (Path(folder) / f for f in sorted(files) if f.lower().endswith(SUFFIXES) and f[0] != ".")
    elif place.is_file() and place.suffix == ".txt":
        for number, line in enumerate(read_text(place, DataError, largest=_LARGEST).splitlines(), 1):
            if line.strip():
                yield _listed(home, line.strip(), f"{place}, line {number}")
    else:
        raise DataError(f"{where}: there is no folder and no list {path[:80]!r} in {home}.")


def _place(home: Path, path: str, where: str) -> Path:
    """Where a path leads; ``../train`` beside the YAML file is what Roboflow writes and means ``train``."""
    plain = path
    while plain.startswith("../"):
        plain = plain[3:]
    return inside(home, plain, where) if plain not in ("", ".", "./") else home


def _listed(home: Path, name: str, where: str) -> Path:
    path = _place(home, name, where)
    if not path.is_file():
        raise DataError(f"{where}: there is no image {name[:80]!r} in {home}.")
    return path


# --------------------------------------------------------------------------------------------------------- the labels


@dataclass
class _Reader:
    home: Path
    classes: Sequence[str]
    faults: Faults

    def __post_init__(self) -> None:
        self.seen: set[Path] = set()
        self.folders: dict[Path, Path] = {}  # of labels → of images

    def described(self, image: Path, where: str) -> Described:
        """An image and its boxes."""
        path = self.labels_of(image)
        self.seen.add(path)
        self.folders[path.parent] = image.parent
        if not path.exists():
            return Described(image, (), where)
        size = size_of(image)
        lines = enumerate(read_text(path, DataError, largest=_LARGEST).splitlines(), 1)
        boxes = [self.box(line.split(), size, f"{path}, line {number}") for number, line in lines if line.strip()]
        return Described(image, [box for box in boxes if box is not None], str(path), size)

    def labels_of(self, image: Path) -> Path:
        """Where the labels of an image lie: the innermost folder ``images`` becomes ``labels``."""
        parts = list(image.relative_to(self.home).with_suffix(".txt").parts)
        for index in range(len(parts) - 2, -1, -1):
            if parts[index] == "images":
                parts[index] = "labels"
                break
        return self.home.joinpath(*parts)

    def box(self, fields: Sequence[str], size: tuple[int, int], where: str) -> Labelled | None:
        """One line: a box, or an outline."""
        if len(fields) != 5 and (len(fields) < 7 or len(fields) % 2 == 0):
            raise DataError(
                f"{where}: wanted a class and x, y, width and height, or a class and an outline; got {len(fields)} "
                "fields."
            )
        try:
            label, numbers = int(fields[0]), [float(value) for value in fields[1:]]
        except ValueError as error:
            raise DataError(f"{where}: wanted a class's number and shares of the image; {str(error)[:80]}.") from error
        if not 0 <= label < len(self.classes):
            self.faults.add(where, f"there is no class number {fields[0][:20]}; known are 0 to {len(self.classes) - 1}")
            return None
        if max(map(abs, numbers)) > 2:
            self.faults.add(where, f"{max(numbers):g} is no share of the image: x, y, width and height lie in 0…1")
            return None
        height, width = size
        x1, y1, x2, y2 = _outline(numbers) if len(numbers) > 4 else _corners(numbers)
        return Labelled((x1 * width, y1 * height, x2 * width, y2 * height), self.classes[label], where)

    def note_labels_without_images(self) -> None:
        """Text files in the folders of labels that no image has."""
        for folder, images in sorted(self.folders.items()):
            stems = {path.stem for path in images.iterdir() if path.name.lower().endswith(SUFFIXES)}
            for path in sorted(folder.glob("*.txt")) if folder.is_dir() else ():
                known = path in self.seen or path.stem in stems or path.name.lower() in _NO_LABELS
                if not known and not path.name.startswith("."):
                    self.faults.add(str(path), "these labels have no image")


def _corners(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    x, y, width, height = numbers
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _outline(numbers: Sequence[float]) -> tuple[float, float, float, float]:
    xs, ys = numbers[::2], numbers[1::2]
    return min(xs), min(ys), max(xs), max(ys)
