"""CIFAR-10 and CIFAR-100 in the official Python batches (https://www.cs.toronto.edu/~kriz/cifar.html).

The batches are pickles. They are read without an unpickler (:mod:`secateur.core.pickles`): arrays, numbers, text, lists
and dictionaries, and nothing else.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from secateur.core.errors import DataError, InputError, first_line
from secateur.core.pickles import UnsafePickle
from secateur.core.pickles import read_pickle as read_plain
from secateur.core.reading import read_bytes
from secateur.data.folder import opened, read_folder
from secateur.data.raw import Raw, Request
from secateur.data.types import Split

__all__ = ["find_batches", "read_cifar", "read_pickle"]

_FILES = {
    "cifar10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"], "batches.meta"),
    "cifar100": (["train"], ["test"], "meta"),
}
_LABELS = {"cifar10": (b"labels", b"label_names"), "cifar100": (b"fine_labels", b"fine_label_names")}


_LARGEST = 2**29  # bytes of a batch; CIFAR-100's has 155 million


@dataclass(eq=False)
class _Type:
    """What stands for a NumPy type: its name."""

    name: str

    def take_state(self, _: Any) -> None:
        """Byte order and alignment, which bytes have none of."""


@dataclass(eq=False)
class _Array:
    """What stands for an array: its bytes and their shape, once they are known."""

    pixels: np.ndarray | None = None

    def take_state(self, state: Any) -> None:
        """(version, shape, type, whether by columns, bytes)."""
        _, shape, kind, by_columns, content = state
        if not isinstance(kind, _Type) or kind.name != "u1" or by_columns:
            raise ValueError("an array of something else than bytes")
        self.pixels = np.frombuffer(content, np.uint8).reshape(shape)


def _latin(text: Any, encoding: Any) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise UnsafePickle(f"the encoding {str(encoding)[:80]}")
    return bytes(text.encode("latin1"))


def _kind(*_: Any) -> None:
    raise UnsafePickle("an array without values")


_CALLS: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _latin,
    ("numpy", "ndarray"): _kind,
    ("numpy", "dtype"): lambda name, *_: _Type(name if isinstance(name, str) else name.decode()),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): lambda *_: _Array() for core in ("core", "_core")},
}


def read_pickle(path: Path) -> dict[bytes, Any]:
    """Reads a batch file without running anything that it brings along.

    Raises:
        DataError: The file is damaged, or wants more than arrays and plain values.
    """
    if not path.exists():
        raise DataError(f"There is no file {path}; the data set is incomplete.")
    try:
        content = read_plain(io.BytesIO(read_bytes(path, DataError, largest=_LARGEST)), _CALLS, bytes_texts=True)
    except DataError:
        raise
    except UnsafePickle as error:
        raise DataError(f"{path} is no CIFAR batch, or an unsafe or damaged one: it asks for {error}.") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{path} is damaged: {first_line(error)}.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is no CIFAR batch: it holds a {type(content).__name__}.")
    return {key: value.pixels if isinstance(value, _Array) else value for key, value in content.items()}


def find_batches(folder: Path) -> tuple[str, Path] | None:
    """(``cifar10`` or ``cifar100``, the folder of the batches) at or one level below ``folder``."""
    for place in (folder, *sorted(p for p in folder.iterdir() if p.is_dir())):
        for kind, (train, test, meta) in _FILES.items():
            if all((place / name).is_file() for name in (train[0], test[0], meta)):
                return kind, place
    return None


def read_cifar(request: Request) -> Raw:
    """Reads the batches from a folder or an archive; an image folder of CIFAR works too."""
    if request.path is None:
        raise InputError("CIFAR wants a path: cifar10:FOLDER (the Python batches), or an archive of it.")
    inside = opened(request)
    assert inside.path is not None
    found = find_batches(inside.path)
    if found is None:
        return read_folder(inside)
    kind, folder = found
    train, test, meta = _FILES[kind]
    names = read_pickle(folder / meta).get(_LABELS[kind][1])
    if not isinstance(names, list) or not names:
        raise DataError(f"{folder / meta} names no classes.")
    classes = tuple(name.decode() if isinstance(name, bytes) else str(name) for name in names)
    training, testing = (_split(folder, files, _LABELS[kind][0], len(classes)) for files in (train, test))
    return Raw(kind, classes, training, testing, pad=4, flip=True)


def _split(folder: Path, files: list[str], key: bytes, classes: int) -> Split:
    images, labels = [], []
    for name in files:
        batch = read_pickle(folder / name)
        data, given = batch.get(b"data"), batch.get(key)
        fits = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.ndim == 2 and data.shape[1] == 3072
        if not fits or not isinstance(given, list) or len(given) != len(data):  # type: ignore[arg-type]
            raise DataError(f"{folder / name} does not hold N×3072 pixels and N labels.")
        if not all(isinstance(label, int) and 0 <= label < classes for label in given):
            raise DataError(f"{folder / name} has labels outside 0…{classes - 1}.")
        images.append(torch.from_numpy(np.array(data).reshape(-1, 3, 32, 32)))
        labels.append(torch.tensor(given))
    return Split(torch.cat(images), torch.cat(labels))
