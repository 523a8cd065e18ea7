from __future__ import annotations

import pytest
import torch

import secateur
from secateur.core.errors import InputError
from secateur.data import DataSet, Split
from secateur.data.preprocessing import Preprocessing


def data_of(images: torch.Tensor) -> DataSet:
    split = Split(images, torch.zeros(len(images), dtype=torch.int64))
    return DataSet("mine", ("a",), tuple(images.shape[1:]), split, split, split, (0.5,) * 3, (0.25,) * 3)  # type: ignore[arg-type]


def test_what_it_says_is_what_the_data_set_does() -> None:
    data = secateur.data.load("digits")
    how = Preprocessing.of(data)
    assert how is not None
    pixels = data.test.images[:3]  # type: ignore[attr-defined]
    found = (pixels.double() / how.scale - torch.tensor(how.mean)) / torch.tensor(how.std)
    assert torch.allclose(found.float(), data.normalise(pixels), atol=1e-5)
    assert how.to_json() == {
        "height": 8, "width": 8, "channels": "L", "layout": "NCHW", "fit": "crop", "scale": 255.0,
        "mean": list(data.mean), "std": list(data.std),
    }  # fmt: skip


def test_what_is_no_image_of_eight_bits_has_none() -> None:
    assert Preprocessing.of(data_of(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))) is not None
    assert Preprocessing.of(data_of(torch.zeros(2, 3, 4, 4))) is None
    assert Preprocessing.of(data_of(torch.zeros(2, 2, 4, 4, dtype=torch.uint8))) is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 8)}, "size of at least 1×1"),
        ({"channels": 2}, "1 or 3 channels"),
        ({"mean": (0.1, 0.2)}, "a mean and a positive standard deviation for each of 1 channels"),
        ({"std": (0.0,)}, "a positive standard deviation"),
        ({"fit": "stretch"}, "one of crop, letterbox; got 'stretch'"),
        ({"fit": "letterbox", "size": (8, 16)}, "puts images into squares"),
        ({"fill": 300}, "a shade from 0 to 255"),
    ],
)
def test_numbers_that_describe_no_input(change: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"size": (8, 8), "channels": 1, "mean": (0.1,), "std": (0.2,)}
    with pytest.raises(InputError, match=message):
        Preprocessing(**{**given, **change})  # type: ignore[arg-type]
