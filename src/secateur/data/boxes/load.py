"""Data sets of images with boxes by path: a folder, a tar or a zip in one of three formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from secateur.core import arguments
from secateur.core.errors import DataError, InputError, UnknownNameError, nearest
from secateur.data.boxes.annotated import Boxes, BoxSet, BoxSplit
from secateur.data.boxes.coco import is_coco, read_coco
from secateur.data.boxes.found import Described, Faults, Found
from secateur.data.boxes.voc import is_voc, read_voc
from secateur.data.boxes.yolo import is_yolo, read_yolo
from secateur.data.cache import cache_folder
from secateur.data.decode import size_of
from secateur.data.folder import opened, stem
from secateur.data.raw import Request
from secateur.data.sampling import complete

__all__ = ["FORMATS", "BoxFormat", "load_boxes"]


@dataclass(frozen=True)
class BoxFormat:
    """A way to write boxes down.

    Attributes:
        name: What :func:`load_boxes` calls it.
        summary: One line.
        known: Whether a folder is written so.
        read: The reader.
    """

    name: str
    summary: str
    known: Callable[[Path], bool]
    read: Callable[[Path, Faults], Found]


FORMATS = (
    BoxFormat("voc", "Pascal VOC: Annotations/*.xml, JPEGImages, ImageSets/Main", is_voc, read_voc),
    BoxFormat("yolo", "YOLO text: data.yaml, images and labels", is_yolo, read_yolo),
    BoxFormat("coco", "COCO: instances_*.json or _annotations.coco.json, and folders of images", is_coco, read_coco),
)

_FILES = {".json": "coco", ".yaml": "yolo", ".yml": "yolo"}


@arguments.checked
def load_boxes(
    path: str | Path,
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    faulty: str = "refuse",
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
) -> BoxSet:
    """Loads images with boxes from COCO JSON, Pascal VOC XML or YOLO text.

    Args:
        path: A folder, a ``.tar`` (``.gz``, ``.xz``, ``.bz2``) or ``.zip`` of one, a COCO ``.json`` or a YOLO ``.yaml``
            beside its images. Everything must lie in there.
        format: ``voc``, ``yolo`` or ``coco``; recognised by what lies in the folder if not given.
        classes: The names that there may be, in the order of their labels; by default those that the format lists, or
            else those of the training images in alphabetical order.
        faulty: What to do with boxes outside of their image, without area or of unknown classes, with images that have
            no labels although the format wants some, and with labels without an image: ``refuse`` names them in an
            error, ``mend`` clips boxes and leaves out the rest, and lists it in ``mended``. One pixel over the edge
            is rounding, and is clipped in silence.
        validation: Share of the training images that is held out where there is no validation part.
        seed: Of that choice.
        limit: Use at most this many training and test images, the first of each.
        cache_dir: Where archives are unpacked; see :func:`secateur.data.load`.

    Returns:
        The images, decoded when asked for, and their boxes in pixels. Where there is no test part, the validation part
        is the test part; where there is neither, a fifth of the images.

    Raises:
        DataError: Files are missing, damaged or unsafe, an image has another size than its labels say, or labels have
            faults; the message names file and line.
        UnknownNameError: A format that there is not.
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    if faulty not in ("refuse", "mend"):
        raise UnknownNameError("way with faulty labels", faulty, ("refuse", "mend"), argument="faulty")
    root, name = _root(Path(path), cache_dir)
    faults = Faults()
    found = _format(root, format).read(root, faults)
    names = tuple(classes) if classes is not None else found.classes or _names(found)
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DataError(f"{name} has two classes with the name {twice[0][:80]!r}; a label could mean either.")
    splits = {part: _split(rows, names, faults) for part, rows in found.parts.items()}
    if faulty == "refuse":
        faults.refuse(name, root)
    if "train" not in splits:
        splits["train"] = splits.pop(next(iter(splits)), BoxSplit((), (), ()))
    train, held, test = complete(splits, validation=validation, seed=seed, limit=limit)
    if not len(train) or not len(test):
        raise DataError(f"{name} has {len(train)} images to train and {len(test)} to test with.")
    return BoxSet(name, names, train, held, test, str(path), faults.within(root))


def _root(path: Path, cache_dir: str | Path | None) -> tuple[Path, str]:
    """The folder or file to read, with archives unpacked, and the data set's name."""
    if not path.exists():
        raise DataError(f"There is no file or folder {str(path)!r}.")
    if path.suffix.lower() in _FILES:
        return path, path.stem
    root = opened(Request(path, cache_folder(cache_dir))).path
    assert root is not None
    while not any(one.known(root) for one in FORMATS):
        inner = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
        if len(inner) != 1:
            break
        (root,) = inner
    return root, stem(path)


def _format(root: Path, name: str | None) -> BoxFormat:
    if name is None and root.is_file():
        name = _FILES[root.suffix.lower()]
    for one in FORMATS:
        if one.name == name or (name is None and one.known(root)):
            return one
    if name is not None:
        raise UnknownNameError("format of boxes", name, [one.name for one in FORMATS], argument="format")
    known = "; ".join(one.summary for one in FORMATS)
    raise DataError(f"{root} holds no images with boxes in a format that is known here. Known are {known}.")


def _names(found: Found) -> tuple[str, ...]:
    """The classes of the training images, where the format lists none."""
    rows = found.parts.get("train") or [row for part in found.parts.values() for row in part]
    return tuple(sorted({box.name for row in rows for box in row.boxes}))


def _split(rows: Sequence[Described], names: Sequence[str], faults: Faults) -> BoxSplit:
    labels = {name: label for label, name in enumerate(names)}
    sizes = [_size(row) for row in rows]
    boxes = [_boxes(row, size, labels, faults) for row, size in zip(rows, sizes, strict=True)]
    twice, count = Counter(row.image for row in rows).most_common(1)[0] if rows else (None, 0)
    if count > 1:
        raise DataError(f"The image {twice} is described {count} times in one part.")
    return BoxSplit(tuple(row.image for row in rows), tuple(boxes), tuple(sizes))


def _size(row: Described) -> tuple[int, int]:
    """The size of an image's file, which its labels must agree with."""
    size = size_of(row.image)
    if row.size is not None and row.size != size:
        raise DataError(
            f"{row.where}: it describes an image of {row.size[1]} × {row.size[0]} pixels, and {row.image} has "
            f"{size[1]} × {size[0]}."
        )
    return size


def _boxes(row: Described, size: tuple[int, int], labels: dict[str, int], faults: Faults) -> Boxes:
    kept, ignored = [], []
    for box in row.boxes:
        if box.name not in labels:
            close = nearest(box.name, labels)
            known = f"did you mean {close[0]!r}" if close else f"known are {', '.join(list(labels)[:10])}"
            faults.add(box.where, f"there is no class {box.name[:80]!r}; {known}")
        elif (corners := faults.clipped(box, size)) is not None:
            kept.append((corners, labels[box.name]))
            ignored.append(box.ignored)
    return Boxes.of(kept, ignored)
