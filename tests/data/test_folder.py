"""Image folders, in memory and streamed."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.core.errors import DataError
from secateur.data import Split, StreamedSplit, folder, load
from secateur.data.decode import decode

from .conftest import MakeFolder, colour


def test_train_and_test_parts(make_folder: MakeFolder, tmp_path: Path) -> None:
    data = load(make_folder(), validation=0, cache_dir=tmp_path / "cache")
    assert (data.name, data.classes, data.shape) == ("pictures", ("cat", "dog"), (3, 8, 12))
    assert (len(data.train), len(data.test)) == (12, 12)
    assert data.flip
    assert isinstance(data.train, Split)
    assert tuple(data.train.images[7, :, 3, 3].tolist()) == colour(1, 1)
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6


def test_val_alone_is_the_test_set_and_beside_test_it_validates(make_folder: MakeFolder, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    alone = load(make_folder("a", ("train", "val")), cache_dir=cache, validation=0.5)
    assert (len(alone.train), len(alone.validation), len(alone.test)) == (6, 6, 12)
    both = load(make_folder("b", ("train", "val", "test")), cache_dir=cache, validation=0.5)
    assert (len(both.train), len(both.validation), len(both.test)) == (12, 12, 12)


def test_classes_without_parts(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder(parts=("",), count=10)
    data = load(root, validation=0.25, cache_dir=tmp_path / "cache")
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)


def test_a_changed_folder_is_decoded_again(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, cache = make_folder(), tmp_path / "cache"
    load(root, cache_dir=cache)
    shutil.copy(root / "train/cat/000.png", root / "train/dog/999.png")
    assert len(load(root, validation=0, cache_dir=cache).train) == 13


def test_a_damaged_cache_is_built_anew(make_folder: MakeFolder, tmp_path: Path) -> None:
    root, cache = make_folder(), tmp_path / "cache"
    first = load(root, cache_dir=cache)
    (file,) = (cache / "decoded").iterdir()
    file.write_bytes(file.read_bytes()[:100])
    second = load(root, cache_dir=cache)
    assert isinstance(first.train, Split)
    assert isinstance(second.train, Split)
    assert torch.equal(first.train.images, second.train.images)


def test_sizes_that_differ_are_scaled_and_cropped(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    Image.new("RGB", (40, 20), (9, 99, 199)).save(root / "train/cat/000.png")
    assert load(root, cache_dir=tmp_path / "cache").shape == (3, 224, 224)
    data = load(root, image_size=10, cache_dir=tmp_path / "cache", validation=0)
    assert data.shape == (3, 10, 10)
    assert isinstance(data.train, Split)
    assert tuple(data.train.images[0, :, 5, 5].tolist()) == (9, 99, 199)


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "grey" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (6, 6), 10 * i).save(tmp_path / "grey" / name / f"{i}.png")
    assert load(tmp_path / "grey", cache_dir=tmp_path / "cache").shape == (1, 6, 6)


def test_the_centre_is_cut_out(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png", (3, 10, 10)).unique().tolist() == [200]


@pytest.fixture
def streamed(make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StreamedSplit:
    monkeypatch.setattr(folder, "IN_MEMORY_BYTES", 100)
    data = load(make_folder(size=(20, 20)), validation=0, cache_dir=tmp_path / "cache")
    assert isinstance(data.train, StreamedSplit)
    assert not (tmp_path / "cache").exists()
    return data.train


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches(streamed: StreamedSplit, workers: int) -> None:
    split = dataclasses.replace(streamed, workers=workers)
    order = torch.tensor([11, 0, 5, 7, 3])
    batches = [*split.batches(2, order=order)]
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    images = torch.cat([images for images, _ in batches])
    assert tuple(images[0, :, 4, 4].tolist()) == colour(1, 5)
    assert torch.cat([labels for _, labels in batches]).tolist() == [1, 0, 0, 1, 0]
    assert split.subset(order).labels.tolist() == [1, 0, 0, 1, 0]


def test_streamed_crops_depend_on_the_seed_alone(streamed: StreamedSplit, tmp_path: Path) -> None:
    ramp = np.arange(20 * 20 * 3, dtype=np.uint32).reshape(20, 20, 3) // 5
    for path in streamed.files:
        Image.fromarray(ramp.astype(np.uint8)).save(path)

    def crops(workers: int, seed: int) -> torch.Tensor:
        split = dataclasses.replace(streamed, workers=workers)
        return torch.cat([images for images, _ in split.batches(5, crop_seed=seed)])

    state = torch.get_rng_state()
    first = crops(0, 1)
    assert torch.equal(first, crops(2, 1))
    assert not torch.equal(first, crops(0, 2))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named_also_by_workers(streamed: StreamedSplit, workers: int) -> None:
    streamed.files[8].write_bytes(b"\x89PNG but not really")
    split = dataclasses.replace(streamed, workers=workers)
    with pytest.raises(DataError, match=streamed.files[8].name) as error:
        list(split.batches(3))
    assert "Traceback" not in str(error.value)


def test_a_damaged_file_in_memory(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    path = root / "train/dog/002.png"
    path.write_bytes(path.read_bytes()[:45])
    with pytest.raises(DataError, match=r"dog.002\.png"):
        load(root, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))


def test_no_images(tmp_path: Path, make_folder: MakeFolder) -> None:
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    (tmp_path / "empty" / "cat" / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match="empty has no images"):
        load(tmp_path / "empty", cache_dir=tmp_path / "cache")
    root = make_folder()
    shutil.rmtree(root / "test/cat")
    shutil.rmtree(root / "test/dog")
    with pytest.raises(DataError, match="test has no images"):
        load(root, cache_dir=tmp_path / "cache")


def test_classes_that_only_the_test_set_has(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder()
    (root / "test/dog").rename(root / "test/bird")
    with pytest.raises(DataError, match="bird"):
        load(root, cache_dir=tmp_path / "cache")
