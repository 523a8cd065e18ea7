"""MNIST and its relatives in the IDX format (http://yann.lecun.com/exdb/mnist)."""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from math import prod
from pathlib import Path
from typing import IO

import numpy as np
import torch
from torch import Tensor

from secateur.core.errors import DataError, InputError, first_line
from secateur.core.reading import allowance, opened
from secateur.data.raw import Raw, Request
from secateur.data.types import Split

__all__ = ["find_idx", "read_idx", "read_mnist"]


def read_mnist(request: Request) -> Raw:
    """Reads ``train-images-idx3-ubyte`` and its three companions, each gzipped or not.

    Raises:
        DataError: A file is missing or damaged.
    """
    if request.path is None:
        raise InputError("mnist wants the folder of the IDX files: mnist:FOLDER.")
    folder = request.path if request.path.is_dir() else request.path.parent
    train, test = (_split(folder, part) for part in ("train", "t10k"))
    if train.shape != test.shape:
        raise DataError(f"{folder}: training images are {train.shape}, test images {test.shape}.")
    classes = 1 + int(max(train.labels.max(), test.labels.max()))
    return Raw("mnist", tuple(str(i) for i in range(classes)), train, test, pad=2)


def find_idx(folder: Path, part: str, what: str) -> Path | None:
    """The file of ``part`` (``train``, ``t10k``) and ``what`` (``images``, ``labels``), if it is there."""
    kind = "idx3" if what == "images" else "idx1"
    for join in ("-", "."):  # both spellings are around
        for suffix in ("", ".gz"):
            path = folder / f"{part}-{what}{join}{kind}-ubyte{suffix}"
            if path.is_file():
                return path
    return None


def _split(folder: Path, part: str) -> Split:
    found = {what: find_idx(folder, part, what) for what in ("images", "labels")}
    for what, path in found.items():
        if path is None:
            kind = "idx3" if what == "images" else "idx1"
            raise DataError(f"{folder} has no {part}-{what}-{kind}-ubyte file (nor one with .gz).")
    images, labels = (read_idx(path) for path in found.values() if path is not None)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
        raise DataError(
            f"{folder}: {part} has images of shape {tuple(images.shape)} and labels of shape "
            f"{tuple(labels.shape)}; wanted (N, H, W) and (N,), N above 0."
        )
    return Split(images.unsqueeze(1), labels.long())


def read_idx(path: Path) -> Tensor:
    """Reads one IDX file of unsigned bytes.

    Raises:
        DataError: The header or the length is wrong.
    """
    with opened(path, DataError) as file:
        packed = path.suffix == ".gz"
        size = os.fstat(file.fileno()).st_size
        try:
            if packed:
                with gzip.open(file) as unpacked:
                    return _read(unpacked, path, allowance(size))
            return _read(file, path, size)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path} is damaged: {first_line(error)}") from error


def _read(source: IO[bytes] | gzip.GzipFile, path: Path, most: int) -> Tensor:
    magic = source.read(4)
    if len(magic) < 4 or magic[:3] != b"\0\0\x08" or not 1 <= magic[3] <= 4:
        raise DataError(f"{path} is no IDX file of unsigned bytes: it starts with {magic.hex() or 'nothing'}.")
    sizes = source.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise DataError(f"{path} is damaged: it ends within its header.")
    shape = struct.unpack(f">{magic[3]}I", sizes)
    wanted = prod(shape)
    if wanted > most:
        raise DataError(f"{path} is damaged: its header says shape {shape}, {wanted:,} bytes, more than it can hold.")
    content = source.read(wanted + 1)  # never more than the header says
    if len(content) != wanted:
        follow = "more" if len(content) > wanted else len(content)
        raise DataError(f"{path} is damaged: its header says shape {shape}, {wanted} bytes; {follow} follow.")
    return torch.from_numpy(np.frombuffer(content, np.uint8).reshape(shape).copy())
