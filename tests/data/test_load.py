"""Names and paths, splits and limits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from secateur.core.errors import DataError, InputError, SecateurError, UnknownNameError
from secateur.data import DATASETS, Split, load
from secateur.data.sampling import draw, hold_out


def images(split: object) -> torch.Tensor:
    assert isinstance(split, Split)
    return split.images


def test_digits_are_the_same_every_time() -> None:
    first, second = load("digits"), load("digits")
    assert torch.equal(images(first.train), images(second.train))
    assert torch.equal(first.test.labels, second.test.labels)
    assert first.classes == tuple("0123456789")
    assert len(first.train) + len(first.validation) + len(first.test) == 1797


def test_the_seed_moves_validation_but_never_the_test_set() -> None:
    first, second = load("digits", seed=0), load("digits", seed=1)
    assert torch.equal(images(first.test), images(second.test))
    assert not torch.equal(images(first.validation), images(second.validation))


def test_parts_do_not_overlap() -> None:
    data = load("digits")
    keys = [{i.numpy().tobytes() for i in images(part)} for part in (data.train, data.validation, data.test)]
    everything = load("digits", validation=0.0)
    whole = {i.numpy().tobytes() for i in images(everything.train)}
    assert keys[0] | keys[1] == whole
    assert len(keys[0] & keys[1]) + len(keys[2] & whole) < 5  # a few digits are drawn exactly alike


def test_draw_is_stratified_and_exact() -> None:
    labels = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    chosen = draw(labels, 20, seed=5)
    assert torch.bincount(labels[chosen]).tolist() == [12, 6, 2]
    rest, held = hold_out(labels, 0.25, seed=0)
    assert (len(rest), len(held)) == (75, 25)
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(100))
    assert len(hold_out(labels, 0.0, seed=0)[1]) == 0


def test_limit_keeps_the_classes_even() -> None:
    data = load("digits", limit=100, validation=0.2)
    assert (len(data.train), len(data.validation), len(data.test)) == (80, 20, 100)
    assert min(torch.bincount(data.train.labels)) >= 7


def test_image_size_scales() -> None:
    data = load("digits", limit=50, image_size=16)
    assert data.shape == (1, 16, 16)
    assert data.pad == 2
    small, large = images(load("digits", limit=50).test).float(), images(data.test).float()
    torch.testing.assert_close(small.mean(), large.mean(), rtol=0.02, atol=1)


def test_imagenet_normalisation_of_grey_images() -> None:
    data = load("digits", normalise="imagenet")
    assert data.mean == (0.449,)
    assert load("digits").mean != data.mean


@pytest.mark.parametrize(
    ("name", "error", "text"),
    [
        ("digit", UnknownNameError, "'digits'"),
        ("cifar11", UnknownNameError, "'cifar10"),
        ("mnist", InputError, "mnist:PATH"),
        ("mnist:nowhere", DataError, "'nowhere'"),
        ("./nowhere/at/all", DataError, "no file or folder"),
        ("pictures.tar.xz", DataError, "no file or folder"),
    ],
)
def test_names_that_lead_nowhere(name: str, error: type[SecateurError], text: str) -> None:
    with pytest.raises(error, match=text):
        load(name)


@pytest.mark.parametrize("options", [{"validation": 1.0}, {"validation": -0.1}, {"limit": 0}, {"image_size": 0}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(InputError, match="share in"):
        load("digits", **options)  # type: ignore[arg-type]


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.docx").write_text("hello")
    with pytest.raises(DataError, match="no data set that is known"):
        load(tmp_path / "notes.docx")


def test_every_entry_says_what_it_needs() -> None:
    assert {"digits", "mnist", "cifar10", "cifar100", "fer2013", "ferplus", "folder", "sound", "tones"} == set(DATASETS)
    assert all(DATASETS[name].summary for name in DATASETS)
    assert [name for name in DATASETS if not DATASETS[name].needs] == ["digits", "tones"]
