"""Images with masks: what readers find, and what they refuse with the file's name."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from secateur.core.errors import DataError, InputError
from secateur.data.boxes import digits_on_canvas
from secateur.data.masks import MaskSplit, digits_with_masks, load_masks


def write(
    folder: Path, names: list[str], *, palette: bool = False, size: tuple[int, int] = (8, 6), top: int = 2
) -> None:
    """Images of noise with masks that hold classes 0 to ``top``, and one ignored pixel."""
    for number, name in enumerate(names):
        noise = np.random.default_rng(number).integers(0, 255, (*size, 3), dtype=np.uint8)
        mask = (np.arange(size[0] * size[1]).reshape(size) % (top + 1)).astype(np.uint8)
        mask[0, 0] = 255
        image = Image.fromarray(mask, "P" if palette else "L")
        if palette:
            image.putpalette([i for c in range(256) for i in (c, 255 - c, 7)])
        for kind, made, ending in (("images", noise, "jpg"), ("masks", image, "png")):
            path = folder / kind / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            (Image.fromarray(made) if isinstance(made, np.ndarray) else made).save(path)


@pytest.mark.parametrize("palette", [False, True])
def test_one_folder_is_split_by_the_seed(tmp_path: Path, palette: bool) -> None:
    write(tmp_path, [f"a{i:02}" for i in range(20)], palette=palette)
    data = load_masks(tmp_path, validation=0.25)
    assert [len(s) for s in (data.train, data.validation, data.test)] == [12, 4, 4]
    assert data.classes == ("0", "1", "2")
    pixels, mask = data.train[0]
    assert pixels.shape == (3, 8, 6)
    assert mask[0, :4].tolist() == [255, 1, 2, 0]
    every = {p for s in (data.train, data.validation, data.test) for p in s.images}
    assert len(every) == 20
    other = load_masks(tmp_path, validation=0.25, seed=1)
    assert other.validation.images != data.validation.images
    assert other.test.images == data.test.images


@pytest.mark.parametrize("inner", ["images/{}", "{}"])
@pytest.mark.parametrize("packed", ["", "tar", "zip"])
def test_parts_and_archives(tmp_path: Path, inner: str, packed: str) -> None:
    root = tmp_path / "set"
    for part, names in (("train", ["a", "b"]), ("val", ["c"]), ("test", ["d"])):
        write(tmp_path / "made", names)
        for kind in ("images", "masks"):
            place = root / (f"{kind}/{part}" if inner.startswith("images") else f"{part}/{kind}")
            place.parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "made" / kind).rename(place)
    path = root
    if packed == "tar":
        path = tmp_path / "set.tar"
        with tarfile.open(path, "w") as out:
            out.add(root, "set")
    elif packed == "zip":
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w") as out:
            for file in root.rglob("*.*"):
                out.write(file, file.relative_to(tmp_path))
    data = load_masks(path, classes=("ground", "cell", "edge"), cache_dir=tmp_path / "cache")
    assert (data.name, [len(s) for s in (data.train, data.validation, data.test)]) == ("set", [2, 1, 1])
    assert data.classes == ("ground", "cell", "edge")


def test_what_does_not_belong_together_is_named(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b", "c"])
    (tmp_path / "masks/b.png").rename(tmp_path / "b.png")
    with pytest.raises(DataError, match=r"images/b\.jpg has no mask of the same name in .*masks"):
        load_masks(tmp_path)
    (tmp_path / "b.png").rename(tmp_path / "masks/d.png")
    (tmp_path / "images/b.jpg").unlink()
    with pytest.raises(DataError, match=r"masks/d\.png has no image of the same name in .*images"):
        load_masks(tmp_path)


def test_other_sizes_values_and_kinds_of_masks(tmp_path: Path) -> None:
    write(tmp_path, ["a", "b", "c"])
    with pytest.raises(DataError, match=r"mask .*masks/a\.png has the value 2; there are 2 classes"):
        load_masks(tmp_path, classes=2)
    Image.new("L", (5, 8)).save(tmp_path / "masks/b.png")
    with pytest.raises(DataError, match=r"mask .*b\.png has 5 × 8 pixels, and its image .*b\.jpg 6 × 8"):
        load_masks(tmp_path)
    Image.new("RGB", (6, 8)).save(tmp_path / "masks/b.png")
    with pytest.raises(DataError, match=r"mask .*b\.png is an image of mode RGB; wanted"):
        load_masks(tmp_path)
    (tmp_path / "masks/b.png").write_bytes((tmp_path / "masks/a.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b\.png is damaged"):
        load_masks(tmp_path)
    with pytest.raises(DataError, match="no folder images"):
        load_masks(tmp_path / "masks")
    with pytest.raises(DataError, match="no file or folder"):
        load_masks(tmp_path / "nowhere")
    with pytest.raises(InputError, match="validation is a share"):
        load_masks(tmp_path, validation=1.0)


def test_masks_in_memory_are_checked() -> None:
    image = torch.zeros(3, 4, 4, dtype=torch.uint8)
    with pytest.raises(InputError, match="mask 0 is"):
        MaskSplit.of([image], [torch.zeros(4, 5, dtype=torch.uint8)])
    with pytest.raises(InputError, match="image 0 is"):
        MaskSplit.of([image.float()], [torch.zeros(4, 4, dtype=torch.uint8)])
    with pytest.raises(InputError, match="1 images, 0"):
        MaskSplit.of([image], [])


def test_masks_of_digits_lie_in_their_boxes() -> None:
    masks, boxes = digits_with_masks(6, 1, 2, seed=3), digits_on_canvas(6, 1, 2, seed=3)
    for part in ("train", "test"):
        for (pixels, mask), (same, found) in zip(
            (getattr(masks, part)[i] for i in range(2)), getattr(boxes, part), strict=False
        ):
            assert torch.equal(pixels, same)
            outside = mask.clone()
            for (x1, y1, x2, y2), label in zip(found.corners.int().tolist(), found.labels.tolist(), strict=True):
                inside = mask[y1:y2, x1:x2]
                assert set(inside.unique().tolist()) <= {0, label + 1}
                assert bool((inside > 0).any(0).all()), "a box has ink in all its columns"
                outside[y1:y2, x1:x2] = 0
            assert int(outside.max()) == 0
