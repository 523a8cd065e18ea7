"""Folders (and archives) with one subfolder per class, or with train, val and test above those."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from secateur.core.errors import DataError, InputError
from secateur.core.reading import plain
from secateur.data.archive import SUFFIXES as ARCHIVES
from secateur.data.archive import digest_of, is_archive, unpack
from secateur.data.cache import remember
from secateur.data.decode import SUFFIXES, decode_all, probe
from secateur.data.raw import Raw, Request
from secateur.data.streamed import StreamedSplit
from secateur.data.types import AnySplit, Split

__all__ = ["IN_MEMORY_BYTES", "PARTS", "opened", "read_folder", "stem"]

IN_MEMORY_BYTES = 2 * 1024**3
"""Data sets that decode to more than this are streamed from their files."""

PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class _Layout:
    classes: tuple[str, ...]
    files: dict[str, tuple[tuple[Path, ...], tuple[int, ...]]]  # by part: paths, labels

    def all_files(self) -> list[Path]:
        return [path for paths, _ in self.files.values() for path in paths]


def opened(request: Request) -> Request:
    """The same request with an archive replaced by the folder it was unpacked to."""
    path = request.path
    if path is None:
        raise InputError("Give the path after the name, as in folder:PATH.")
    if path.is_dir():
        return request
    if not is_archive(path):
        raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVES)}).")
    digest = digest_of(path)
    folder = unpack(path, request.cache, digest)
    return replace(request, path=folder, digest=digest, name=stem(path))


def read_folder(request: Request) -> Raw:
    """Reads an image folder or an archive of one; small ones into memory.

    Raises:
        DataError: There are no images, or one is damaged.
    """
    request = opened(request)
    assert request.path is not None
    name = request.name or stem(request.path)
    layout = _scan(request.path, name)
    files = layout.all_files()
    kind = probe(files, request.image_size)
    if len(files) * kind.bytes > IN_MEMORY_BYTES:
        streams: dict[str, AnySplit] = {
            part: StreamedSplit(paths, torch.tensor(labels), kind.shape, deep=kind.deep)
            for part, (paths, labels) in layout.files.items()
        }
        return _raw(name, layout.classes, streams, 0)

    def build() -> tuple[tuple[str, ...], dict[str, Split]]:
        return layout.classes, {
            part: Split(decode_all(paths, kind), torch.tensor(labels)) for part, (paths, labels) in layout.files.items()
        }

    key = (
        f"{request.digest or _listing(request.path, files)}"[:24]
        + "-{}x{}x{}".format(*kind.shape)
        + ("-deep" if kind.deep else "")
    )
    classes, splits = remember(request.cache, key, build)
    return _raw(name, classes, splits, kind.shape[1] // 8)


def _raw(name: str, classes: tuple[str, ...], parts: Mapping[str, AnySplit], pad: int) -> Raw:
    # Mirrored photographs of things look as plausible as the originals.
    return Raw(name, classes, parts["train"], parts.get("test"), parts.get("validation"), pad, flip=True)


def stem(path: Path) -> str:
    """What to call the data set at a path: the name of the folder, or of the archive without its ending."""
    name = path.resolve().name
    suffix = next((s for s in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def _scan(root: Path, name: str) -> _Layout:
    """Finds the parts and classes below ``root``, also when a single folder holds everything."""
    folders = _folders(root)
    while len(folders) == 1 and not _is_part(folders[0].name) and not _images(folders[0], deep=False):
        root, folders = folders[0], _folders(folders[0])
    found = {part: folder for part, names in PARTS.items() for folder in folders if folder.name.lower() in names}
    roots = found if "train" in found else {"train": root}
    if "validation" in roots and "test" not in roots:
        roots["test"] = roots.pop("validation")  # the only held-out images are for the final figure
    classes = tuple(folder.name for folder in _folders(roots["train"]) if _images(folder))
    if not classes:
        raise DataError(
            f"{name} has no images: {root} should hold one folder per class (or train/ and test/ with such "
            f"folders) with {', '.join(SUFFIXES)} files in them."
        )
    return _Layout(classes, {part: _labelled(folder, classes) for part, folder in roots.items()})


def _labelled(root: Path, classes: Sequence[str]) -> tuple[tuple[Path, ...], tuple[int, ...]]:
    strange = [folder.name for folder in _folders(root) if folder.name not in classes and _images(folder)]
    if strange:
        raise DataError(f"{root} has classes that the training images do not have: {', '.join(strange)}.")
    pairs = [(path, label) for label, name in enumerate(classes) for path in _images(root / name)]
    if not pairs:
        raise DataError(f"{root} has no images in folders named like the training classes.")
    return tuple(path for path, _ in pairs), tuple(label for _, label in pairs)


def _is_part(name: str) -> bool:
    return any(name.lower() in names for names in PARTS.values())


def _folders(root: Path) -> list[Path]:
    hidden = (".", "__")
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(hidden))


def _images(folder: Path, *, deep: bool = True) -> list[Path]:
    """Image files below ``folder`` in the order of their names."""
    if not folder.is_dir():
        return []
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(folders) if deep else []
        found += [Path(where) / f for f in sorted(files) if f.lower().endswith(SUFFIXES) and f[0] != "."]
    return found


def _listing(root: Path, files: Sequence[Path]) -> str:
    """A digest of names, sizes and times of change, standing in for the images' content."""
    digest = hashlib.sha256(str(root.resolve()).encode())
    for path in files:
        state = plain(path, DataError).stat()
        digest.update(f"{path.relative_to(root)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
