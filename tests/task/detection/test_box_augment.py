"""Augmentation: boxes stay on what they are around; the same numbers give the same images."""

from __future__ import annotations

import pytest
import torch

from secateur.core.errors import InputError
from secateur.data.boxes import Boxes, Image
from secateur.task.detection import BoxAugment

SIDE = 96


def rectangles(seed: int, count: int = 2) -> Image:
    """Rectangles, each in a channel and a shade of its own, on black."""
    generator = torch.Generator().manual_seed(seed)
    pixels, rows = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8), []
    for label in range(count):
        x, y = torch.randint(4, 50, (2,), generator=generator).tolist()
        w, h = torch.randint(14, 40, (2,), generator=generator).tolist()
        pixels[label, y : y + h, x : x + w] = 240
        rows.append(((x, y, x + w, y + h), label))
    return Image(pixels, Boxes.of(rows))


def seen(pixels: torch.Tensor, label: int) -> list[float] | None:
    rows, columns = (pixels[label] > 180).nonzero(as_tuple=True)
    if not len(rows):
        return None
    return [float(v) for v in (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("options", [{"scale": 0.0, "shift": 0.0}, {"scale": 0.4, "shift": 0.2}, {"scale": 0.0}])
def test_boxes_stay_on_what_they_are_around(seed: int, options: dict[str, float]) -> None:
    image = rectangles(seed)
    changed = BoxAugment(flip=0.5, colour=0, visible=0.0, **options)(image, torch.Generator().manual_seed(seed))
    assert changed.pixels.shape == image.pixels.shape
    assert changed.pixels.dtype == torch.uint8
    left = dict(zip(changed.boxes.labels.tolist(), changed.boxes.corners.tolist(), strict=True))
    for label in range(2):
        pixels = changed.pixels.clone()
        grey = (pixels == 128).all(0)  # what came in from beside the image
        pixels[:, grey] = 0
        around = seen(pixels, label)
        if around is not None and (around[2] - around[0]) * (around[3] - around[1]) > 9:
            assert left[label] == pytest.approx(around, abs=1.6)


def test_most_images_change_and_the_same_numbers_give_the_same() -> None:
    image, augment = rectangles(0), BoxAugment(mosaic=0.5)
    others = [rectangles(i) for i in (1, 2, 3)]
    one = [augment(image, torch.Generator().manual_seed(s), others) for s in range(10)]
    two = [augment(image, torch.Generator().manual_seed(s), others) for s in range(10)]
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.pixels, b.pixels)
        assert torch.equal(a.boxes.corners, b.boxes.corners)
    assert sum(not torch.equal(a.pixels, image.pixels) for a in one) == 10
    before = torch.random.get_rng_state()
    augment(image, torch.Generator(), others)
    assert torch.equal(torch.random.get_rng_state(), before), "the global generator is left alone"


def test_boxes_that_leave_the_image_go() -> None:
    pixels = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    image = Image(pixels, Boxes.of([((0, 40, 4, 60), 0), ((40, 40, 60, 60), 1)], ignored=[False, True]))
    augment = BoxAugment(flip=0, scale=0, shift=0.5, colour=0, visible=0.9)
    for seed in range(20):
        boxes = augment(image, torch.Generator().manual_seed(seed)).boxes
        assert boxes.corners.ge(0).all()
        assert boxes.corners.le(SIDE).all()
        assert boxes.ignored.tolist() == [label == 1 for label in boxes.labels.tolist()]
    kept = [0 in augment(image, torch.Generator().manual_seed(s)).boxes.labels.tolist() for s in range(20)]
    assert 3 < sum(kept) < 17


def test_colour_leaves_boxes_and_shape_alone() -> None:
    image = rectangles(5)
    changed = BoxAugment(flip=0, scale=0, shift=0, colour=0.5)(image, torch.Generator().manual_seed(2))
    assert torch.equal(changed.boxes.corners, image.boxes.corners)
    assert not torch.equal(changed.pixels, image.pixels)


def test_mosaic() -> None:
    """Four images of one shade each: each in its quarter, with its box cut there."""
    whole = Boxes.of([((8, 8, SIDE - 8, SIDE - 8), 0)])
    images = [Image(torch.full((3, SIDE, SIDE), 50 * (i + 1), dtype=torch.uint8), whole) for i in range(4)]
    augment = BoxAugment(flip=0, scale=0, shift=0, colour=0, mosaic=1, visible=0.01)
    image = augment(images[0], torch.Generator().manual_seed(4), images[1:])
    assert len(image.boxes) == 4
    for shade, (x1, y1, x2, y2) in zip((50, 100, 150, 200), image.boxes.corners.int().tolist(), strict=True):
        assert image.pixels[:, y1:y2, x1:x2].eq(shade).all()
    counts = [int(image.pixels[0].eq(shade).sum()) for shade in (50, 100, 150, 200)]
    assert sum(counts) == SIDE**2
    assert min(counts) > 0.08 * SIDE**2
    assert torch.equal(augment(images[0], torch.Generator(), images[1:3]).pixels, images[0].pixels), "too few for one"


def test_an_image_without_objects() -> None:
    image = Image(torch.zeros(3, 32, 32, dtype=torch.uint8), Boxes.of([]))
    augment = BoxAugment(mosaic=1)
    assert len(augment(image, torch.Generator(), [image] * 3).boxes) == 0


def test_wrong_arguments() -> None:
    with pytest.raises(InputError, match=r"BoxAugment\(flip=…\) is a share in 0…1 .*got 2"):
        BoxAugment(flip=2)
    with pytest.raises(InputError, match="scale below 1"):
        BoxAugment(scale=1.0)
    small = Image(torch.zeros(3, 16, 16, dtype=torch.uint8), Boxes.of([]))
    with pytest.raises(InputError, match=r"images of one size; got \(3, 16, 16\), \(3, 96, 96\)"):
        BoxAugment(mosaic=1)(rectangles(0), torch.Generator(), [small] * 3)
