"""FER2013 and FER+ labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from secateur.core.errors import DataError
from secateur.data import Split, load

USAGES = ["Training"] * 6 + ["PublicTest"] * 3 + ["PrivateTest"] * 3
VOTES = "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"


def image(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, 48 * 48)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [f"{i % 7},{' '.join(map(str, image(i)))},{usage}" for i, usage in enumerate(USAGES)]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]) + "\n")
    votes = []
    for i, usage in enumerate(USAGES):
        counts = [0] * 10
        counts[9 if i == 2 else i % 8] = 7
        counts[(i + 1) % 8] += 3
        votes.append(f"{usage},fer{i:07}.png,{','.join(map(str, counts))}")
    (tmp_path / "fer2013new.csv").write_text("\n".join([VOTES, *votes]) + "\n")
    return tmp_path


@pytest.mark.parametrize("form", ["fer2013:{}", "{}/fer2013.csv", "{}"])
def test_fer2013(folder: Path, form: str) -> None:
    data = load(form.format(folder), cache_dir=folder / "cache")
    assert (len(data.train), len(data.validation), len(data.test)) == (6, 3, 3)
    assert data.shape == (1, 48, 48)
    assert data.train.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert isinstance(data.test, Split)
    assert torch.equal(data.test.images[0, 0], torch.from_numpy(image(9).reshape(48, 48)).to(torch.uint8))


def test_fer_plus_takes_the_majority_and_leaves_out_no_faces(folder: Path) -> None:
    data = load(f"ferplus:{folder}", cache_dir=folder / "cache")
    assert len(data.classes) == 8
    assert data.train.labels.tolist() == [0, 1, 3, 4, 5]  # row 2 is no face
    again = load(f"ferplus:{folder}", cache_dir=folder / "cache")
    assert torch.equal(again.train.labels, data.train.labels)


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ("3,1 2 3,Training", "line 14: wanted 2304 pixels"),
        ("x,1 2 3,Training", "line 14"),
        ("3,300 2 3,Training", "line 14"),
        ("3,1 2 3,Elsewhere", "line 14.*Elsewhere"),
        ("3", "line 14"),
    ],
)
def test_damaged_rows_are_named(folder: Path, row: str, text: str) -> None:
    path = folder / "fer2013.csv"
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(DataError, match=text):
        load(f"fer2013:{path}", cache_dir=folder / "cache")


def test_missing_columns_files_and_rows(folder: Path) -> None:
    labels = folder / "fer2013new.csv"
    labels.write_text("\n".join(labels.read_text().splitlines()[:-1]))
    with pytest.raises(DataError, match="different numbers of rows"):
        load(f"ferplus:{folder}", cache_dir=folder / "cache")
    labels.unlink()
    with pytest.raises(DataError, match=r"fer2013new\.csv"):
        load(f"ferplus:{folder}", cache_dir=folder / "cache")
    (folder / "fer2013.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column emotion"):
        load(f"fer2013:{folder}", cache_dir=folder / "cache")
