"""CIFAR batches: read as arrays, and never run."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.core.errors import DataError
from secateur.data import Split, load
from secateur.data.cifar import read_pickle


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("was-run"),))


def write(path: Path, content: object, protocol: int = 2) -> None:
    path.write_bytes(pickle.dumps(content, protocol=protocol))


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


@pytest.fixture
def ten(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    labels = [i % 10 for i in range(20)]
    for i in range(1, 6):
        # the official files are Python 2 pickles, whose strings are bytes
        write(folder / f"data_batch_{i}", {b"data": pixels(20, i), b"labels": labels})
    write(folder / "test_batch", {b"data": pixels(20, 9), b"labels": labels})
    write(folder / "batches.meta", {b"label_names": [f"c{i}".encode() for i in range(10)]})
    return folder


def test_the_official_layout(ten: Path) -> None:
    data = load(f"cifar10:{ten}", validation=0)
    assert (data.name, len(data.train), len(data.test), data.pad, data.flip) == ("cifar10", 100, 20, 4, True)
    assert data.classes == tuple(f"c{i}" for i in range(10))
    assert isinstance(data.train, Split)
    wanted = torch.from_numpy(pixels(20, 2).reshape(20, 3, 32, 32))
    assert torch.equal(data.train.images[20:40], wanted)


@pytest.mark.parametrize("form", ["{}", "cifar10:{}"])
def test_the_official_archive(ten: Path, tmp_path: Path, form: str) -> None:
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(ten, ten.name)
    data = load(form.format(tmp_path / "cifar-10-python.tar.gz"), cache_dir=tmp_path / "cache")
    assert (data.name, len(data.test)) == ("cifar10", 20)


def test_cifar100_takes_the_fine_labels(tmp_path: Path) -> None:
    content = {b"data": pixels(100, 0), b"fine_labels": list(range(100)), b"coarse_labels": [0] * 100}
    write(tmp_path / "train", content)
    write(tmp_path / "test", content)
    write(tmp_path / "meta", {b"fine_label_names": [f"f{i}".encode() for i in range(100)]})
    data = load(f"cifar100:{tmp_path}", validation=0)
    assert len(data.classes) == 100
    assert data.train.labels.tolist() == list(range(100))


def test_code_in_a_batch_is_refused_and_not_run(ten: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ten)
    write(ten / "data_batch_3", {b"data": Evil(), b"labels": []})
    with pytest.raises(DataError, match=r"data_batch_3.*unsafe.*asks for"):
        load(f"cifar10:{ten}")
    assert not (ten / "was-run").exists()


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "numpy.load", "numpyx._reconstruct"]
)
def test_only_array_parts_get_through(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.rpartition(".")
    path = tmp_path / "test_batch"
    path.write_bytes(f"c{module}\n{attribute}\n(S'x'\ntR.".encode())
    with pytest.raises(DataError, match="test_batch"):
        read_pickle(path)


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_arrays_of_any_protocol(tmp_path: Path, protocol: int) -> None:
    write(tmp_path / "b", {b"data": pixels(3, 0)}, protocol)
    assert np.array_equal(read_pickle(tmp_path / "b")[b"data"], pixels(3, 0))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({b"data": pixels(4, 0)[:, :100], b"labels": [0] * 4}, "3072"),
        ({b"data": pixels(4, 0), b"labels": [0] * 3}, "N labels"),
        ({b"data": pixels(4, 0), b"labels": [0, 1, 2, 10]}, "outside 0…9"),
        ([1, 2], "holds a list"),
    ],
)
def test_wrong_content(ten: Path, content: object, text: str) -> None:
    write(ten / "data_batch_2", content)
    with pytest.raises(DataError, match=text):
        load(f"cifar10:{ten}")


def test_damaged_and_missing_files(ten: Path) -> None:
    path = ten / "data_batch_2"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match="data_batch_2"):
        load(f"cifar10:{ten}")
    path.unlink()
    with pytest.raises(DataError, match="incomplete"):
        load(f"cifar10:{ten}")
