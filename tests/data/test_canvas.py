"""Digits on a canvas: boxes that are tight, images that come again, test digits of their own."""

from __future__ import annotations

import pytest
import torch

from secateur.core.errors import InputError
from secateur.data.boxes import BoxSet, digits_on_canvas


@pytest.fixture(scope="module")
def data() -> BoxSet:
    return digits_on_canvas(60, 10, 20)


def test_boxes_are_the_smallest_around_what_is_bright(data: BoxSet) -> None:
    seen = 0
    for split in (data.train, data.validation, data.test):
        for pixels, boxes in split:
            bright = (pixels >= 64).all(0)
            ground = (pixels <= 40).all(0)
            assert (bright | ground).all()
            covered = torch.zeros_like(bright)
            for x1, y1, x2, y2 in boxes.corners.int().tolist():
                inside = bright[y1:y2, x1:x2]
                assert inside[0].any()
                assert inside[-1].any()
                assert inside[:, 0].any()
                assert inside[:, -1].any()
                assert not covered[y1:y2, x1:x2].any(), "no digit over another"
                covered[y1:y2, x1:x2] = True
            assert not (bright & ~covered).any(), "nothing bright without a box"
            assert 1 <= len(boxes) <= 4
            seen += len(boxes)
    assert seen > 120


def test_everything_comes_again_and_every_class_is_there(data: BoxSet) -> None:
    again, other = digits_on_canvas(60, 10, 20), digits_on_canvas(60, 10, 20, seed=9)
    for index in range(60):
        assert torch.equal(again.train[index].pixels, data.train[index].pixels)
        assert torch.equal(again.train[index].boxes.corners, data.train[index].boxes.corners)
    assert not torch.equal(other.train[0].pixels, data.train[0].pixels)
    assert torch.cat([boxes.labels for boxes in data.train.boxes]).unique().tolist() == list(range(10))
    assert list(map(len, (data.train, data.validation, data.test))) == [60, 10, 20]


def test_sides(data: BoxSet) -> None:
    small = digits_on_canvas(5, 0, 1, side=32)
    assert small.train.sizes[0] == (32, 32)
    assert max(float(boxes.corners.max()) for boxes in small.train.boxes) <= 32
    with pytest.raises(InputError, match="a side of 32 or more; got 1, 0, 1 and 16"):
        digits_on_canvas(1, 0, 1, side=16)
