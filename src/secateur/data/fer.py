"""FER2013 facial expressions (Goodfellow et al., arXiv:1307.0414) as CSV, with FER+ labels when asked for.

FER+ (Barsoum et al., arXiv:1608.01041) replaces the labels by the votes of ten people; the majority
counts, and images that most of them held to be unknown or no face are left out.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

from secateur.core.errors import DataError, InputError
from secateur.core.reading import opened
from secateur.data.archive import digest_of
from secateur.data.cache import remember
from secateur.data.raw import Raw, Request
from secateur.data.types import AnySplit, Split

__all__ = ["read_fer", "read_ferplus"]

_FER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
_FERPLUS = ("neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear", "contempt")
_PARTS = {"Training": "train", "PublicTest": "validation", "PrivateTest": "test"}
_SIDE = 48
_LONGEST = 100_000  # characters of a line; an image has 4 · 48² and a few


def read_fer(request: Request) -> Raw:
    """Reads ``fer2013.csv`` (columns emotion, pixels, Usage); PublicTest validates, PrivateTest tests."""
    pixels, _ = _paths(request)

    def build() -> tuple[tuple[str, ...], dict[str, Split]]:
        return _FER, _collect(pixels, None)

    return _raw("fer2013", *remember(request.cache, digest_of(pixels)[:24], build))


def read_ferplus(request: Request) -> Raw:
    """Reads ``fer2013.csv`` with the labels of ``fer2013new.csv`` in the same folder."""
    pixels, votes = _paths(request)
    if not votes.is_file():
        raise DataError(f"ferplus wants the FER+ labels beside the images: there is no {votes}.")
    key = f"{digest_of(pixels)[:24]}-{digest_of(votes)[:24]}"

    def build() -> tuple[tuple[str, ...], dict[str, Split]]:
        return _FERPLUS, _collect(pixels, _majorities(votes))

    return _raw("ferplus", *remember(request.cache, key, build))


def _paths(request: Request) -> tuple[Path, Path]:
    """The image CSV and where the FER+ labels would be."""
    if request.path is None:
        raise InputError("FER2013 wants a path: fer2013:FOLDER or fer2013:FILE.csv.")
    path = request.path / "fer2013.csv" if request.path.is_dir() else request.path
    if not path.is_file():
        raise DataError(f"There is no file {path}.")
    return path, path.with_name("fer2013new.csv")


def _raw(name: str, classes: tuple[str, ...], splits: dict[str, Split]) -> Raw:
    parts: dict[str, AnySplit] = {part: split for part, split in splits.items() if len(split)}
    if "train" not in parts:
        raise DataError(f"{name} has no images of the usage 'Training'.")
    return Raw(name, classes, parts["train"], parts.get("test"), parts.get("validation"), pad=4, flip=True)


def _rows(path: Path, wanted: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, row) of a CSV file that has the ``wanted`` columns."""
    try:
        with opened(path, DataError) as content, io.TextIOWrapper(content, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(_lines(file, path))
            missing = [name for name in wanted if name not in (reader.fieldnames or [])]
            if missing:
                there = str(list(reader.fieldnames or ()))[:200]
                raise DataError(f"{path} has no column {', '.join(missing)}; it has {there}.")
            for row in reader:
                yield reader.line_num, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is damaged: {error}") from error


def _lines(file: TextIO, path: Path) -> Iterator[str]:
    """Lines of a table; a line without end would be read into memory whole."""
    while line := file.readline(_LONGEST + 1):
        if len(line) > _LONGEST:
            raise DataError(f"{path} is damaged: it has a line of more than {_LONGEST:,} characters.")
        yield line


def _majorities(path: Path) -> list[int]:
    """The class of every row, −1 where most votes say unknown or no face."""
    columns = (*_FERPLUS, "unknown", "NF")
    labels = []
    for line, row in _rows(path, columns):
        try:
            votes = [int(row[name]) for name in columns]
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}, line {line}: votes have to be whole numbers.") from error
        best = votes.index(max(votes))
        labels.append(best if best < len(_FERPLUS) and max(votes) > 0 else -1)
    return labels


def _collect(path: Path, replaced: Sequence[int] | None) -> dict[str, Split]:
    images: dict[str, list[np.ndarray]] = {part: [] for part in _PARTS.values()}
    labels: dict[str, list[int]] = {part: [] for part in _PARTS.values()}
    count = 0
    for number, (line, row) in enumerate(_rows(path, ("emotion", "pixels", "Usage"))):
        count += 1
        if replaced is not None and number >= len(replaced):
            break
        image, label, part = _parse(row, f"{path}, line {line}")
        if replaced is not None:
            label = replaced[number]
        if label >= 0:
            images[part].append(image)
            labels[part].append(label)
    if replaced is not None and count != len(replaced):
        raise DataError(f"{path} and its FER+ labels have different numbers of rows; FER+ has {len(replaced)}.")
    return {part: _split(images[part], labels[part]) for part in images}


def _parse(row: dict[str, str], where: str) -> tuple[np.ndarray, int, str]:
    try:
        image = np.array(row["pixels"].split(), dtype=np.uint8)
        label = int(row["emotion"])
        part = _PARTS[row["Usage"]]
    except (AttributeError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise DataError(f"{where} cannot be read: {error}") from error
    if image.size != _SIDE * _SIDE or not 0 <= label < len(_FER):
        raise DataError(f"{where}: wanted {_SIDE * _SIDE} pixels and a label of 0…6; got {image.size}, {label}.")
    return image, label, part


def _split(images: list[np.ndarray], labels: list[int]) -> Split:
    stacked = np.stack(images) if images else np.empty((0, _SIDE * _SIDE), np.uint8)
    return Split(torch.from_numpy(stacked).view(-1, 1, _SIDE, _SIDE), torch.tensor(labels, dtype=torch.int64))
