"""Data files: IDX, CIFAR's pickles, FER's tables."""

from __future__ import annotations

import gzip
import pickle
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tests.data.test_hostile_files import PICKLES

from secateur.data.cifar import read_pickle
from secateur.data.fer import read_fer
from secateur.data.idx import read_idx
from secateur.data.raw import Request

from . import Crafted, holding, no_files
from .archives import COMMANDS

IDX = "train-images-idx3-ubyte"


def crafted() -> Iterator[Crafted]:
    head = b"\0\0\x08\x03"
    sizes = {"billions": (2**31, 2**20, 2**20), "more than there is": (10, 10, 11), "less than there is": (10, 10, 9)}
    for name, numbers in sizes.items():
        content = head + struct.pack(">3I", *numbers) + bytes(1000)
        yield Crafted(f"IDX: {name}", holding(IDX, content), read_idx)
        yield Crafted(f"IDX: {name}, packed", holding(f"{IDX}.gz", gzip.compress(content)), read_idx)
    bomb = gzip.compress(head + struct.pack(">3I", 600, 1000, 1000) + bytes(600_000_000), 1)
    yield Crafted("IDX: a bomb", holding(f"{IDX}.gz", bomb), read_idx)
    yield Crafted("IDX: other numbers", holding(IDX, b"\0\0\x0d\x03" + bytes(1000)), read_idx)
    yield Crafted("IDX: no gzip", holding(f"{IDX}.gz", b"x" * 100), read_idx)
    for name, content in PICKLES.items():
        yield Crafted(f"CIFAR: {name}", holding("data_batch_1", content), read_pickle)
        yield Crafted(f"CIFAR: {name}, as a data set", batches(content), _load, COMMANDS)
    arrays: dict[str, Any] = {"objects": np.array([None]), "numbers": np.zeros(9), "words": np.array(["a"]),
                              "columns": np.zeros((2, 2), np.uint8, order="F")}  # fmt: skip
    for name, array in arrays.items():
        yield Crafted(f"CIFAR: {name}", holding("data_batch_1", pickle.dumps({b"data": array}, 2)), read_pickle)
    tables = {
        "an endless line": "emotion,pixels,Usage\n0," + "1 " * 5_000_000 + ",Training\n", "no columns": "a,b\n1,2\n",
        "an endless head": "a," * 5_000_000, "large pixels": f"emotion,pixels,Usage\n0,{'999 ' * 2304},Training\n",
        "another label": f"emotion,pixels,Usage\n99,{'9 ' * 2304},Training\n", "NUL": "emotion,pixels,Usage\n\0",
        "an open quote": 'emotion,pixels,Usage\n0,"' + "1\n" * 500_000,
    }  # fmt: skip
    for name, text in tables.items():
        yield Crafted(f"FER: {name}", holding("fer2013.csv", text), _fer, COMMANDS)
    for file, read in ((IDX, read_idx), (f"{IDX}.gz", read_idx), ("data_batch_1", read_pickle), ("fer2013.csv", _fer)):
        for name, make in no_files(file).items():
            yield Crafted(f"{file}: {name}", make, read)


def _fer(path: Path) -> Any:
    return read_fer(Request(path, path.parent / "cache"))


def _load(path: Path) -> Any:
    from secateur.data import load

    return load(path, cache_dir=path / "cache")


def batches(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        root = folder / "cifar"
        root.mkdir()
        for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"):
            (root / name).write_bytes(content)
        return root

    return make
