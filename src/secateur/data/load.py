"""Data sets by name or path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.nn import functional as F

from secateur.core import arguments
from secateur.core.errors import DataError, InputError, UnknownNameError
from secateur.core.registry import Registry
from secateur.data.archive import is_archive
from secateur.data.cache import cache_folder
from secateur.data.cifar import find_batches, read_cifar
from secateur.data.digits import read_digits
from secateur.data.fer import read_fer, read_ferplus
from secateur.data.folder import opened, read_folder
from secateur.data.idx import find_idx, read_mnist
from secateur.data.raw import Raw, Request
from secateur.data.sampling import draw, hold_out
from secateur.data.sound import read_sound, read_tones
from secateur.data.types import IMAGENET, AnySplit, DataSet, Split, scale_of, statistics

__all__ = ["DATASETS", "DataEntry", "load"]


@dataclass(frozen=True)
class DataEntry:
    """A kind of data set.

    Attributes:
        name: What :func:`load` calls it.
        summary: One line.
        needs: What the path after the colon has to be; empty for embedded data.
        read: The reader.
    """

    name: str
    summary: str
    needs: str
    read: Callable[[Request], Raw]


DATASETS: Registry[DataEntry] = Registry("data set")
for _entry in (
    DataEntry("digits", "scikit-learn's 8×8 digits, 1,797 images, embedded", "", read_digits),
    DataEntry("mnist", "MNIST and relatives, 28×28, grey", "folder of IDX files", read_mnist),
    DataEntry("cifar10", "CIFAR-10, 32×32", "Python batches, or an image folder; may be an archive", read_cifar),
    DataEntry("cifar100", "CIFAR-100, 32×32", "Python batches, or an image folder; may be an archive", read_cifar),
    DataEntry("fer2013", "FER2013 facial expressions, 48×48, grey", "fer2013.csv or its folder", read_fer),
    DataEntry("ferplus", "FER2013 with FER+ labels", "folder of fer2013.csv, fer2013new.csv", read_ferplus),
    DataEntry("folder", "one folder per class, or train/ and test/ of such", "folder or archive", read_folder),
    DataEntry("sound", "WAV files, one folder per class: log-mel spectrograms", "folder or archive", read_sound),
    DataEntry("tones", "synthetic sounds of four kinds as spectrograms, embedded", "", read_tones),
):
    DATASETS.add(_entry.name, _entry)


@arguments.checked
def load(
    name_or_path: str | Path,
    *,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
    image_size: int | None = None,
    normalise: str = "data",
) -> DataSet:
    """Loads a data set: ``digits``, ``NAME:PATH``, or a path whose kind is recognised.

    Args:
        name_or_path: A name of :data:`DATASETS`, with a path where it needs one, or a bare path.
        validation: Share of the training images that is held out, stratified by class; ignored where
            the data set has validation images of its own.
        seed: Of that choice.
        limit: Use at most this many training (with validation) and test images, stratified.
        cache_dir: Where archives are unpacked and decoded images kept; by default ``$SECATEUR_CACHE``
            or ``secateur`` in the user's cache folder.
        image_size: Side in pixels to scale to; by default the images' own size.
        normalise: ``data`` for the training images' own mean and standard deviation, or ``imagenet``.

    Raises:
        DataError: Files are missing, damaged, unsafe or empty, or the disk is full.
        UnknownNameError: With the nearest names.

    >>> data = load("digits")
    >>> data.shape, len(data.train), len(data.validation), len(data.test)
    ((1, 8, 8), 1294, 144, 359)
    """
    if not 0 <= validation < 1 or any(n is not None and n < 1 for n in (limit, image_size)):
        raise InputError(
            f"validation is a share in [0, 1), limit and image_size are at least 1; "
            f"got {validation}, {limit} and {image_size}."
        )
    if normalise not in ("data", "imagenet"):
        raise UnknownNameError("normalisation", normalise, ("data", "imagenet"))
    read, path = _reader(str(name_or_path))
    raw = read(Request(path, cache_folder(cache_dir), image_size))
    looked_at = 50_000 if isinstance(raw.train, Split) else 2_000
    scale = scale_of(raw.train, looked_at)
    mean, std = statistics(raw.train, looked_at, scale=scale)
    raw = _resized(_split(raw, validation, seed, limit), image_size)
    assert raw.test is not None
    assert raw.validation is not None
    data = DataSet(
        name=raw.name,
        classes=raw.classes,
        shape=raw.train.shape,
        train=raw.train,
        validation=raw.validation,
        test=raw.test,
        mean=mean,
        std=std,
        pad=raw.pad,
        flip=raw.flip,
        source=str(path or "embedded"),
        scale=scale,
    )
    return data if normalise == "data" else data.with_normalisation(*_imagenet(raw.train.shape[0]))


def _imagenet(channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """ImageNet's statistics; for grey images the mean over the colours."""
    if channels == 3:
        return IMAGENET
    mean, std = (round(sum(values) / 3, 6) for values in IMAGENET)
    return (mean,) * channels, (std,) * channels


def _reader(name: str) -> tuple[Callable[[Request], Raw], Path | None]:
    """Finds out what ``NAME``, ``NAME:PATH`` or a bare path means."""
    kind, colon, rest = name.partition(":")
    if kind in DATASETS and (colon or not Path(name).exists()):
        entry = DATASETS[kind]
        if colon and entry.needs and not Path(rest).exists():
            raise DataError(f"There is no file or folder {rest!r}; {kind} wants {kind}:PATH ({entry.needs}).")
        if entry.needs and not rest:
            raise InputError(f"{kind} wants a path: {kind}:PATH ({entry.needs}).")
        return entry.read, Path(rest) if rest else None
    path = Path(name)
    if path.exists():
        return _recognise, path
    if colon and len(kind) > 1 and Path(rest).exists():
        raise UnknownNameError("data set", kind, DATASETS)
    if "/" in name or "\\" in name or path.suffix:
        raise DataError(f"There is no file or folder {name!r}. Data sets by name: {', '.join(DATASETS)}.")
    raise UnknownNameError("data set", name, DATASETS, "A path to images works too.")


def _recognise(request: Request) -> Raw:
    """Reads a bare path by what lies there."""
    path = request.path
    assert path is not None
    if path.suffix == ".csv":
        return read_fer(request)
    if path.is_file() and "-ubyte" in path.name:
        return read_mnist(request)
    if path.is_dir() or is_archive(path):
        inside = opened(request)
        assert inside.path is not None
        if (inside.path / "fer2013.csv").is_file():
            return read_fer(inside)
        if find_idx(inside.path, "train", "images"):
            return read_mnist(inside)
        return read_cifar(inside) if find_batches(inside.path) else read_folder(inside)
    raise DataError(
        f"{path} is no data set that is known here: wanted a folder, an archive, a FER2013 .csv or IDX files."
    )


def _split(raw: Raw, validation: float, seed: int, limit: int | None) -> Raw:
    """Fills in the missing parts: a fixed fifth as the test set, a seeded share for validation."""
    train, test, held = raw.train, raw.test, raw.validation
    if test is None:
        rest, chosen = hold_out(train.labels, 0.2, seed=0)
        train, test = train.subset(rest), train.subset(chosen)
    train, test = _limited(train, limit), _limited(test, limit)
    if held is None:
        rest, chosen = hold_out(train.labels, validation, seed)
        train, held = train.subset(rest), train.subset(chosen)
    else:
        held = _limited(held, limit)
    if not len(train) or not len(test):
        raise DataError(f"{raw.name} has no images left: {len(train)} to train and {len(test)} to test with.")
    return replace(raw, train=train, test=test, validation=held)


def _limited(split: AnySplit, limit: int | None) -> AnySplit:
    if limit is None or limit >= len(split):
        return split
    return split.subset(draw(split.labels, limit, seed=0))


def _resized(raw: Raw, size: int | None) -> Raw:
    """Scales images in memory that came in another size (files were decoded to the wanted one)."""
    if size is None or raw.train.shape[1:] == (size, size):
        return raw
    pad = round(raw.pad * size / raw.train.shape[1])
    train = _scaled(raw.train, size)
    test, held = (None if split is None else _scaled(split, size) for split in (raw.test, raw.validation))
    return replace(raw, train=train, test=test, validation=held, pad=pad)


def _scaled(split: AnySplit, size: int) -> AnySplit:
    if not isinstance(split, Split):
        return split
    images = torch.empty(len(split), split.shape[0], size, size, dtype=split.images.dtype)
    for start in range(0, len(split), 1000):
        part = split.images[start : start + 1000].float()
        part = F.interpolate(part, (size, size), mode="bilinear", antialias=True)
        images[start : start + 1000] = part.round().clamp(0, 255) if images.dtype == torch.uint8 else part
    return Split(images, split.labels)
