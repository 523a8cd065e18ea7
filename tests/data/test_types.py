"""Splits, normalisation and statistics, against independent formulas."""

from __future__ import annotations

import pytest
import torch

from secateur.core.errors import InputError
from secateur.data import DataSet, Split, load, statistics


def some(count: int = 20, channels: int = 3) -> Split:
    images = torch.randint(0, 256, (count, channels, 5, 4), dtype=torch.uint8)
    return Split(images, torch.arange(count) % 3)


def test_batches_cover_the_split_in_order() -> None:
    split = some()
    order = torch.randperm(20)
    images = torch.cat([images for images, _ in split.batches(6, order=order)])
    labels = torch.cat([labels for _, labels in split.batches(6, order=order)])
    assert torch.equal(images, split.images[order])
    assert torch.equal(labels, split.labels[order])


def test_statistics_are_those_of_all_pixels() -> None:
    split = some(30)
    mean, std = statistics(split)
    pixels = split.images.double() / 255
    torch.testing.assert_close(torch.tensor(mean), pixels.mean((0, 2, 3)).float(), atol=2e-6, rtol=0)
    wanted = pixels.std((0, 2, 3), correction=0).float()
    torch.testing.assert_close(torch.tensor(std), wanted, atol=2e-6, rtol=0)


def test_normalise_matches_the_formula_and_keeps_the_layout() -> None:
    data = load("digits").with_normalisation((0.25,), (0.5,))
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(data.normalise(images), (images.float() / 255 - 0.25) / 0.5)
    wide = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    colour = DataSet("x", ("a",), (3, 8, 8), some(), some(), some(), (0.1,) * 3, (0.2,) * 3)
    assert colour.normalise(wide).is_contiguous(memory_format=torch.channels_last)


def test_sample_is_seeded_and_normalised() -> None:
    data = load("digits")
    first, second = data.sample(50, seed=3), data.sample(50, seed=3)
    assert torch.equal(first, second)
    assert not torch.equal(first, data.sample(50, seed=4))
    assert first.shape == (50, 1, 8, 8)
    assert abs(float(data.sample(1294).mean())) < 0.02


def test_wrong_shapes_and_types_are_refused() -> None:
    with pytest.raises(InputError, match="uint8"):
        Split(torch.zeros(2, 3, 4, 4, dtype=torch.float64), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="finite"):
        Split(torch.full((2, 3, 4, 4), float("nan")), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(InputError, match="one int64 label per image"):
        Split(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(InputError, match="1 channels"):
        load("digits").with_normalisation((0.1, 0.2, 0.3), (1, 1, 1))
