"""Crops and mirrors against the same thing done image by image."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from secateur.task.augment import crop_and_flip, draw


def test_every_image_is_its_own_crop_and_mirror() -> None:
    images = torch.randint(0, 256, (16, 3, 9, 7), dtype=torch.uint8)
    draws = draw(16, pad=2, flip=True, generator=torch.Generator().manual_seed(0))
    out = crop_and_flip(images, draws)
    assert 0 < int(draws.flip.sum()) < 16
    for i, image in enumerate(F.pad(images, (2, 2, 2, 2))):
        top, left = int(draws.top[i]), int(draws.left[i])
        wanted = image[:, top : top + 9, left : left + 7]
        assert torch.equal(out[i], wanted.flip(2) if draws.flip[i] else wanted)


def test_no_padding_and_no_mirror_change_nothing() -> None:
    images = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    draws = draw(4, pad=0, flip=False, generator=torch.Generator())
    assert torch.equal(crop_and_flip(images, draws), images)


def test_the_result_is_channels_last() -> None:
    draws = draw(4, pad=1, flip=True, generator=torch.Generator())
    out = crop_and_flip(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), draws)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_all_offsets_are_drawn() -> None:
    draws = draw(2000, pad=2, flip=True, generator=torch.Generator().manual_seed(0))
    assert draws.top.unique().tolist() == draws.left.unique().tolist() == [0, 1, 2, 3, 4]
    assert 900 < int(draws.flip.sum()) < 1100


def test_parts_and_selections_stay_aligned() -> None:
    draws = draw(10, pad=2, flip=True, generator=torch.Generator().manual_seed(0))
    positions = torch.tensor([7, 2, 5])
    assert torch.equal(draws.take(positions).top, draws.top[positions])
    assert torch.equal(draws.part(3, 6).left, draws.left[3:6])
