"""Letterbox: where pixels and boxes come to lie."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from box_files import SIZES, voc
from secateur.core.errors import InputError
from secateur.data.boxes import Boxes, BoxSplit, Image, Letterboxed, collate, letterbox, load_boxes, placement


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (32, 32), (1, 500), (77, 31), (16, 8)])
@pytest.mark.parametrize("square", [32, 160])
def test_a_box_stays_on_what_it_is_around(size: tuple[int, int], square: int) -> None:
    """A white rectangle on black: its box in the square is where white is there, to a pixel."""
    height, width = size
    box = (width // 4, height // 4, width - width // 4, height - height // 4)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    image[:, box[1] : box[3], box[0] : box[2]] = 255
    framed = letterbox(image, square, grey=0)
    assert tuple(framed.shape) == (3, square, square)
    (corners,) = placement(size, square).forward(torch.tensor([box], dtype=torch.float32)).tolist()
    rows, columns = (framed[0] > 127).nonzero(as_tuple=True)
    seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert all(abs(float(one) - other) <= 1 for one, other in zip(seen, corners, strict=True))
    back = placement(size, square).back(torch.tensor([corners]))
    torch.testing.assert_close(back, torch.tensor([box], dtype=torch.float32), rtol=0, atol=1e-3)


def test_what_lies_beside_is_grey_and_proportions_stay() -> None:
    framed = letterbox(torch.full((3, 10, 20), 7, dtype=torch.uint8), 40)
    assert framed[:, 10:30].eq(7).all()
    assert framed[:, :10].eq(128).all()
    assert framed[:, 30:].eq(128).all()
    same = torch.arange(3 * 16 * 16).reshape(3, 16, 16).to(torch.uint8)
    assert torch.equal(letterbox(same, 16), same)


def test_splits_of_squares(tmp_path: Path) -> None:
    data = load_boxes(voc(tmp_path / "voc")).train
    squares = Letterboxed(data, 64)
    memory = squares.in_memory()
    assert memory.sizes == ((64, 64), (64, 64))
    for index in range(2):
        assert torch.equal(squares[index].pixels, memory[index].pixels)
        assert torch.equal(squares.boxes[index].corners, memory[index].boxes.corners)
    assert squares.boxes[0].corners[0].tolist() == [0, 12, 64, 52], f"of {SIZES['a']} in the middle of 64×64"
    assert squares.boxes[1].corners[0].tolist() == [2, 4, 62, 60]
    pixels, boxes = collate(list(squares))
    assert tuple(pixels.shape) == (2, 3, 64, 64)
    assert [len(one) for one in boxes] == [2, 1]


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match=r"uint8 image \(C, H, W\); got torch.float32"):
        letterbox(torch.zeros(3, 4, 4), 8)
    with pytest.raises(InputError, match="at least one pixel"):
        placement((0, 4), 8)
    empty = Letterboxed(BoxSplit.of([torch.zeros(3, 4, 8, dtype=torch.uint8)], [Boxes.of([])]), 8)
    assert empty.boxes[0].corners.shape == (0, 4)


def test_what_is_no_batch() -> None:
    with pytest.raises(InputError, match="got none"):
        collate([])
    images = [Image(torch.zeros(3, side, 4, dtype=torch.uint8), Boxes.of([])) for side in (4, 5)]
    with pytest.raises(InputError, match=r"\(3, 4, 4\), \(3, 5, 4\)"):
        collate(images)


@pytest.mark.parametrize("corner", [float("nan"), float("inf")])
def test_boxes_are_finite_and_of_a_class(corner: float) -> None:
    with pytest.raises(InputError, match="finite"):
        Boxes.of([((0, 0, corner, 4), 0)])
    with pytest.raises(InputError, match="from 0 on; got -1"):
        Boxes.of([((0, 0, 4, 4), -1)])
