"""Images with masks by path: a folder, a tar or a zip with ``images`` and ``masks``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from secateur.core import arguments
from secateur.core.errors import DataError, InputError
from secateur.data.cache import cache_folder
from secateur.data.decode import SUFFIXES, decode_mask, size_of
from secateur.data.folder import PARTS, opened, stem
from secateur.data.masks.masked import IGNORED, MaskSet, MaskSplit
from secateur.data.raw import Request
from secateur.data.sampling import complete

__all__ = ["load_masks"]

_SHOWN = 3
Pairs = list[tuple[Path, Path]]


@arguments.checked
def load_masks(
    path: str | Path,
    *,
    classes: Sequence[str] | int | None = None,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
) -> MaskSet:
    """Loads images with masks: ``images/…`` and ``masks/…`` with the same names; a mask is a PNG.

    A mask's pixel is the number of its class, or 255 where it is not counted. The parts are folders ``train``, ``val``
    and ``test``, either within ``images`` and ``masks`` or above them. Where there is no test part, the validation part
    is the test part; where there is neither, a fifth of the images.

    Args:
        path: A folder, a ``.tar`` (``.gz``, ``.xz``, ``.bz2``) or ``.zip`` of one.
        classes: Names in the order of their numbers, or how many there are; by default up to the largest number in
            the training masks.
        validation: Share of the training images that is held out where there is no validation part.
        seed: Of that choice.
        limit: Use at most this many training and test images, the first of each.
        cache_dir: Where archives are unpacked; see :func:`secateur.data.load`.

    Raises:
        DataError: Files are missing, damaged or unsafe, an image has no mask or a mask no image, the two differ in
            size, or a mask has a value beyond the classes; the message names the file.
    """
    if not 0 <= validation < 1 or (limit is not None and limit < 1):
        raise InputError(f"validation is a share in [0, 1) and limit at least 1; got {validation} and {limit}.")
    root, name = _root(Path(path), cache_dir)
    found = _found(root)
    names = _names(classes, found["train"])
    splits = {part: _split(pairs, names) for part, pairs in found.items()}
    train, held, test = complete(splits, validation=validation, seed=seed, limit=limit)
    if not len(train) or not len(test):
        raise DataError(f"{name} has {len(train)} images to train and {len(test)} to test with.")
    return MaskSet(name, names, train, held, test, str(path))


def _root(path: Path, cache_dir: str | Path | None) -> tuple[Path, str]:
    if not path.exists():
        raise DataError(f"There is no file or folder {str(path)!r}.")
    root = opened(Request(path, cache_folder(cache_dir))).path
    assert root is not None
    while not (root / "images").is_dir() and not any((root / n / "images").is_dir() for n in PARTS["train"]):
        inner = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))]
        if len(inner) != 1:
            raise DataError(f"{path} has no folder images beside a folder masks, and no train/images.")
        (root,) = inner
    return root, stem(path)


def _found(root: Path) -> dict[str, Pairs]:
    """Pairs of image and mask by part."""
    places: dict[str, tuple[Path, Path]] = {}
    for part, names in PARTS.items():
        for name in names:
            for images, masks in ((root / "images" / name, root / "masks" / name),
                                  (root / name / "images", root / name / "masks")):  # fmt: skip
                if images.is_dir():
                    places[part] = (images, masks)
    if "train" not in places:
        places = {"train": (root / "images", root / "masks")}
    return {part: _pairs(*where) for part, where in places.items()}


def _files(folder: Path) -> dict[str, Path]:
    """Image files below a folder, by their path in it without the ending."""
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}.")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.name.lower().endswith(SUFFIXES) and not path.name.startswith("."):
            key = path.relative_to(folder).with_suffix("").as_posix()
            if key in found:
                raise DataError(f"{found[key]} and {path} have the same name; which one belongs to its mask is open.")
            found[key] = path
    return found


def _pairs(images: Path, masks: Path) -> Pairs:
    one, other = _files(images), _files(masks)
    for left, right, words in ((one, other, "has no mask"), (other, one, "has no image")):
        missing = [path for key, path in left.items() if key not in right]
        if missing:
            listed = ", ".join(map(str, missing[:_SHOWN]))
            more = f" and {len(missing) - _SHOWN:,} more" if len(missing) > _SHOWN else ""
            where = masks if left is one else images
            raise DataError(f"{listed}{more} {words} of the same name in {where}. Add or remove it.")
    return [(path, other[key]) for key, path in one.items()]


def _names(classes: Sequence[str] | int | None, train: Pairs) -> tuple[str, ...]:
    if classes is None:
        values = (decode_mask(mask) for _, mask in train)
        classes = max((int(v[v != IGNORED].max()) + 1 for v in values if bool((v != IGNORED).any())), default=0)
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    if len(names) < 2 or len(names) > IGNORED:
        raise DataError(f"Segmentation wants 2 to {IGNORED} classes; the masks (or classes=…) have {len(names)}.")
    return names


def _split(pairs: Pairs, names: Sequence[str]) -> MaskSplit:
    sizes = tuple(size_of(image) for image, _ in pairs)
    for (image, mask), size in zip(pairs, sizes, strict=True):
        classes = decode_mask(mask)
        if tuple(classes.shape) != size:
            height, width = classes.shape
            raise DataError(
                f"The mask {mask} has {width} × {height} pixels, and its image {image} {size[1]} × {size[0]}."
            )
        beyond = classes[(classes >= len(names)) & (classes != IGNORED)]
        if len(beyond):
            raise DataError(
                f"The mask {mask} has the value {int(beyond[0])}; there are {len(names)} classes, 0 to "
                f"{len(names) - 1}, and {IGNORED} for what is ignored."
            )
    return MaskSplit(tuple(i for i, _ in pairs), tuple(m for _, m in pairs), sizes)
