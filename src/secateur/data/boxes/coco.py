"""COCO: one JSON file a part, with lists of images, annotations and categories (Lin et al., arXiv:1405.0312)."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.core.errors import DataError
from secateur.core.reading import read_json
from secateur.data.boxes.found import Described, Faults, Found, Labelled, inside
from secateur.data.decode import SUFFIXES

__all__ = ["is_coco", "read_coco"]

_LARGEST, _BYTES_A_PART = 2**30, 30
"""Bytes of a file (that of COCO's training images has 450 million), and how many of them a list or an object has."""

_PART = re.compile(r"(?:^|[^a-z])(train|val|test)(?:ing|id|idation)?(?:[^a-z]|$)")
_NAMES = {"train": "train", "val": "validation", "test": "test"}


def is_coco(root: Path) -> bool:
    """Whether a folder has JSON files that are named as COCO's, or one JSON file alone."""
    return bool(_files(root))


def read_coco(root: Path, faults: Faults) -> Found:
    """Reads ``instances_*.json`` or ``_annotations.coco.json`` below ``root``, or the only JSON file there.

    Which part a file is about is read from its name or its folder's (train, val, test). Images are looked for in every
    folder below ``root``, first in those of the part's name. An image without annotations has no objects.

    Raises:
        DataError: A file is damaged or no COCO file, or names another one outside of the folder.
    """
    folders = _folders(root)
    parts: dict[str, list[Described]] = {}
    classes: dict[str, None] = {}
    for path in _files(root):
        file = _File(path, faults, tuple(_sorted(folders, path)))
        part = _part(path, root)
        if part in parts:
            raise DataError(
                f"{root} has two files for the {part} images, {path.name} among them. Give one file's path."
            )
        content = _content(path)
        names = _categories(content, path)
        classes |= dict.fromkeys(names[i] for i in sorted(names))
        parts[part] = file.described(content, names)
    return Found(parts, tuple(classes))


def _files(root: Path) -> list[Path]:
    if root.is_file():
        return [root]
    for named in ("instances_*.json", "_annotations.coco*.json"):
        if chosen := sorted(root.rglob(named)):
            return chosen
    found = [*sorted(root.glob("*.json")), *sorted(root.glob("annotations/*.json"))]
    return found if len(found) == 1 else [path for path in found if _part_in(path.stem)]


def _part_in(text: str) -> str:
    match = _PART.search(text.lower())
    return _NAMES[match[1]] if match else ""


def _part(path: Path, root: Path) -> str:
    folder = "" if path.parent == root else path.parent.name
    return _part_in(path.stem) or _part_in(folder) or "train"


def _folders(root: Path) -> list[Path]:
    """Folders with images, the uppermost first; those of ``annotations/x.json`` lie beside ``annotations``."""
    top = root if root.is_dir() else root.parent
    top = top.parent if root.is_file() and top.name == "annotations" else top
    found = [Path(where) for where, _, files in os.walk(top) if any(f.lower().endswith(SUFFIXES) for f in files)]
    return sorted({top, *found, *(folder.parent for folder in found if folder != top)})


def _sorted(folders: Sequence[Path], path: Path) -> list[Path]:
    """Those that a file's images may lie in, the likeliest first."""
    part = _part_in(path.stem) or _part_in(path.parent.name)
    return sorted(folders, key=lambda folder: (folder != path.parent, bool(part) and _part_in(folder.name) != part))


def _content(path: Path) -> dict[str, Any]:
    content = read_json(path, DataError, largest=_LARGEST, each=_BYTES_A_PART)
    for key in ("images", "annotations", "categories"):
        rows = content.get(key) if isinstance(content, dict) else None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise DataError(f"{path} is no COCO file: it wants lists of objects named images, annotations, categories.")
    return dict(content)


def _value(row: Mapping[str, Any], key: str, kind: type | tuple[type, ...], where: str) -> Any:
    value = row.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{where}: its {key!r} is {str(value)[:60]!r}.")
    return value


def _side(row: Mapping[str, Any], key: str, where: str) -> int:
    """Pixels of an image's side."""
    value: int = _value(row, key, int, where)
    if not 0 <= value < 2**31:
        raise DataError(f"{where}: its {key!r} is {str(value)[:60]!r}.")
    return value


def _categories(content: Mapping[str, Any], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for number, row in enumerate(content["categories"]):
        where = f"{path}, categories[{number}]"
        key, name = _value(row, "id", int, where), _value(row, "name", str, where)
        if key in found or name in found.values():
            raise DataError(f"{where}: the category {name[:80]!r} with id {key} is there twice.")
        found[key] = name
    return found


@dataclass(frozen=True)
class _File:
    path: Path
    faults: Faults
    folders: tuple[Path, ...]

    def described(self, content: Mapping[str, Any], names: Mapping[int, str]) -> list[Described]:
        boxes = self.boxes(content["annotations"], names)
        found: dict[int, Described] = {}
        for number, row in enumerate(content["images"]):
            where = f"{self.path}, images[{number}]"
            key, name = _value(row, "id", int, where), _value(row, "file_name", str, where)
            height, width = (_side(row, side, where) for side in ("height", "width"))
            if key in found:
                raise DataError(f"{where}: the id {key} is given twice.")
            image = self.image(name, where)
            if image is None:
                self.faults.add(where, f"there is no image {name[:80]!r} in the data set's folder")
                boxes.pop(key, None)
            else:
                found[key] = Described(image, boxes.pop(key, ()), where, (height, width))
        known = {row["id"] for row in content["images"]}
        for key, lost in boxes.items():
            if key not in known:
                self.faults.add(lost[0].where, f"there is no image with id {key}")
        return list(found.values())

    def boxes(self, rows: Sequence[Mapping[str, Any]], names: Mapping[int, str]) -> dict[int, list[Labelled]]:
        """Boxes by the id of their image."""
        found: dict[int, list[Labelled]] = defaultdict(list)
        for number, row in enumerate(rows):
            where = f"{self.path}, annotations[{number}]"
            box, category = _value(row, "bbox", list, where), _value(row, "category_id", int, where)
            if len(box) != 4 or not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in box):
                raise DataError(f"{where}: its 'bbox' wants x, y, width and height; got {str(box)[:60]!r}.")
            if category not in names:
                self.faults.add(where, f"there is no category with id {category}")
                continue
            x, y, width, height = map(_real, box)
            corners = (x, y, x + width, y + height)
            ignored = row.get("iscrowd") in (1, True)
            found[_value(row, "image_id", int, where)].append(Labelled(corners, names[category], where, ignored))
        return found

    def image(self, name: str, where: str) -> Path | None:
        """The first folder that has it."""
        return next((path for folder in self.folders if (path := inside(folder, name, where)).is_file()), None)


def _real(value: int | float) -> float:
    """A number of any length as a floating-point one."""
    try:
        return float(value)
    except OverflowError:
        return float("inf")
