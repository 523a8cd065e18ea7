"""IDX files: real and damaged ones."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.core.errors import DataError
from secateur.data import Split, load
from secateur.data.idx import read_idx


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part, count, suffix in (("train", 40, ""), ("t10k", 12, ".gz")):
        for kind, array in (
            ("images-idx3", rng.integers(0, 256, (count, 6, 5))),
            ("labels-idx1", np.arange(count) % 4),
        ):
            content = idx(array)
            path = tmp_path / f"{part}-{kind}-ubyte{suffix}"
            path.write_bytes(gzip.compress(content) if suffix else content)
    return tmp_path


@pytest.mark.parametrize("form", ["mnist:{}", "{}", "{}/train-images-idx3-ubyte"])
def test_folder_or_file_zipped_or_not(folder: Path, form: str) -> None:
    data = load(form.format(folder), validation=0.25)
    assert (len(data.train), len(data.validation), len(data.test)) == (30, 10, 12)
    assert data.shape == (1, 6, 5)
    assert data.classes == ("0", "1", "2", "3")
    assert not data.flip


def test_pixels_arrive_where_they_were(folder: Path) -> None:
    data = load(folder, validation=0)
    wanted = np.random.default_rng(0).integers(0, 256, (40, 6, 5)).astype(np.uint8)
    assert isinstance(data.train, Split)
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(wanted))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "nothing"),
        (b"\x89PNG1234", "89504e47"),
        (struct.pack(">BBBBI", 0, 0, 8, 3, 5), "within its header"),
        (idx(np.zeros((4, 2, 2)))[:-1], "16 bytes; 15 follow"),
        (idx(np.zeros((4, 2, 2))) + b"x", "16 bytes; more follow"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 2**32 - 1), "4,294,967,295 bytes, more than it can hold"),
    ],
)
def test_damaged_headers(tmp_path: Path, content: bytes, text: str) -> None:
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(DataError, match=text):
        read_idx(path)


def test_a_cut_gzip_file(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is damaged"):
        load(folder)


def test_a_missing_file(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no train-labels-idx1-ubyte"):
        load(folder)


def test_counts_that_differ(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(39)))
    with pytest.raises(DataError, match=r"\(40, 6, 5\).*\(39,\)"):
        load(folder)


def test_the_shared_mnist(shared: Path) -> None:
    data = load(f"mnist:{shared / 'data' / 'mnist'}")
    assert (len(data.train), len(data.validation), len(data.test)) == (54_000, 6_000, 3_000)
    assert data.shape == (1, 28, 28)
    assert torch.bincount(data.train.labels).tolist()[:2] == [5331, 6068]  # nine tenths of 5923 and 6742
