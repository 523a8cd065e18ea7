"""Pascal VOC: one XML file an image in ``Annotations``, and lists of names in ``ImageSets/Main``.

Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010. Corners are taken as they stand: as the edges
of the box, which is how LabelImg and its like write them. (The challenge's own files count pixels from 1 and mean the
last one with it; there the left and upper edge come out one pixel late.)
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from secateur.core.errors import DataError
from secateur.core.reading import read_text
from secateur.data.boxes.found import Described, Faults, Found, Labelled, inside
from secateur.data.boxes.markup import Element, read_xml
from secateur.data.decode import SUFFIXES

__all__ = ["is_voc", "read_voc"]

_PARTS = {"train": "train", "val": "validation", "test": "test"}
_LARGEST_LIST = 64 * 2**20


def is_voc(root: Path) -> bool:
    """Whether a folder is one of VOC's."""
    return (root / "Annotations").is_dir()


def read_voc(root: Path, faults: Faults) -> Found:
    """Reads ``root/Annotations/*.xml`` with their images and the lists in ``root/ImageSets/Main``.

    Without such lists everything is one part. An image with an XML file without objects has none; one without an XML
    file is a fault, and so is an XML file without an image.

    Raises:
        DataError: A file is damaged, or names another one outside of the folder.
    """
    parts = {}
    for part, names in _listed(root).items():
        described = (_described(root, name, where, faults) for name, where in names)
        parts[part] = [one for one in described if one is not None]
    return Found(parts, None)


def _listed(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Names of images by part, with the file and line that names them."""
    lists = root / "ImageSets/Main"
    found = {part: list(_names(lists / f"{name}.txt")) for name, part in _PARTS.items()}
    found = {part: names for part, names in found.items() if names}
    if "train" not in found:
        held = {name for names in found.values() for name, _ in names}
        both = list(_names(lists / "trainval.txt"))
        if not both and not found:
            both = [(path.stem, str(path)) for path in sorted((root / "Annotations").glob("*.xml")) if _shown(path)]
        found["train"] = [(name, where) for name, where in both if name not in held]
    return found


def _shown(path: Path) -> bool:
    return not path.name.startswith(".")


def _names(path: Path) -> Iterator[tuple[str, str]]:
    if path.is_file():
        for number, line in enumerate(read_text(path, DataError, largest=_LARGEST_LIST).splitlines(), 1):
            if line.strip():
                yield line.split()[0], f"{path}, line {number}"


def _described(root: Path, name: str, where: str, faults: Faults) -> Described | None:
    annotations = inside(root / "Annotations", f"{name}.xml", where)
    if not annotations.is_file():
        faults.add(where, f"the image {name[:80]!r} has no file {annotations.name[:80]!r} in Annotations")
        return None
    tree = read_xml(annotations)
    if tree.name != "annotation":
        raise DataError(f"{tree.where}: wanted <annotation>; got <{tree.name[:80]}>.")
    image = _image(root, tree, name)
    if image is None:
        faults.add(tree.where, f"there is no image of the name {name[:80]!r} beside Annotations")
        return None
    return Described(image, [_labelled(one) for one in tree.all("object")], str(annotations), _size(tree))


def _image(root: Path, tree: Element, name: str) -> Path | None:
    """The image that an annotation is about: that of its own name, as the challenge has it, else the file it names."""
    given = tree.get("filename").replace("\\", "/").rpartition("/")[2]
    folders = [folder for folder in (root / "JPEGImages", root / "images", root / "Images", root) if folder.is_dir()]
    names = [f"{name}{ending}" for suffix in SUFFIXES for ending in (suffix, suffix.upper())]
    names += [given] if given.lower().endswith(SUFFIXES) else []
    for folder in folders:
        for candidate in names:
            path = inside(folder, candidate, tree.where)
            if path.is_file():
                return path
    return None


def _size(tree: Element) -> tuple[int, int] | None:
    """(H, W); some programs write 0 for what they do not know."""
    for size in tree.all("size"):
        height, width = size.number("height"), size.number("width")
        return (int(height), int(width)) if 0 < height < 2**31 and 0 < width < 2**31 else None
    return None


def _labelled(thing: Element) -> Labelled:
    box, name = thing.one("bndbox"), thing.one("name").text.strip()
    x1, y1, x2, y2 = (box.number(key) for key in ("xmin", "ymin", "xmax", "ymax"))
    return Labelled((x1, y1, x2, y2), name, thing.where, thing.get("difficult", "0") not in ("", "0"))
