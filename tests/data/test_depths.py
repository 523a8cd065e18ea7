"""Images of 16 and 32 bits and of floating-point numbers keep their content, up to the network's input."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from secateur.core.errors import DataError
from secateur.data import DataSet, Split, StreamedSplit, load, scale_of, statistics
from secateur.data.decode import Kind, decode, decode_all
from secateur.train import TrainConfig, fit

RAMP = np.linspace(0, 1, 64).reshape(8, 8)
DEPTHS = {
    "16 bits": ((RAMP * 65535).astype("uint16"), "png"),
    "12 bits of 16": ((RAMP * 4095).astype("uint16"), "png"),
    "16 bits, TIFF": ((RAMP * 65535).astype("uint16"), "tiff"),
    "32 bits": ((RAMP * 2e6 - 1e6).astype("int32"), "tiff"),
    "0 to 1": (RAMP.astype("float32"), "tiff"),
    "-1000 to 1000": ((RAMP * 2000 - 1000).astype("float32"), "tiff"),
    "tiny": ((RAMP * 1e-6).astype("float32"), "tiff"),
}


def folder(root: Path, array: np.ndarray, ending: str, count: int = 10) -> Path:
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        for number in range(count):
            values = np.roll(array, number) if name == "a" else np.roll(array, number).T.copy()
            Image.fromarray(values).save(root / name / f"{number}.{ending}")
    return root


def read(path: Path, cache: Path) -> DataSet:
    return load(path, cache_dir=cache, validation=0)


@pytest.mark.parametrize(("array", "ending"), DEPTHS.values(), ids=DEPTHS)
def test_every_number_arrives(tmp_path: Path, array: np.ndarray, ending: str) -> None:
    data = read(folder(tmp_path / "x", array, ending), tmp_path / "cache")
    assert isinstance(data.train, Split)
    assert data.train.images.dtype == torch.float32
    assert set(data.train.images.unique().tolist()) == set(np.unique(array.astype("float32")).tolist())
    assert data.scale == np.abs(array.astype("float32")).max()
    again = read(tmp_path / "x", tmp_path / "cache")
    assert isinstance(again.train, Split)
    assert torch.equal(again.train.images, data.train.images)


@pytest.mark.parametrize(("array", "ending"), DEPTHS.values(), ids=DEPTHS)
def test_what_the_network_gets(tmp_path: Path, array: np.ndarray, ending: str) -> None:
    data = read(folder(tmp_path / "x", array, ending), tmp_path / "cache")
    assert isinstance(data.train, Split)
    before = data.train.images.clone()
    given = data.normalise(data.train.images)
    assert torch.equal(data.train.images, before), "the stored images are not touched"
    values = data.train.images.double() / data.scale
    wanted = (values - data.mean[0]) / data.std[0]
    assert torch.allclose(given.double(), wanted, atol=1e-4)
    assert abs(float(given.mean())) < 0.01
    assert 0.9 < float(given.std()) < 1.1


def test_bytes_are_what_they_were(tmp_path: Path) -> None:
    data = read(folder(tmp_path / "x", (RAMP * 255).astype("uint8"), "png"), tmp_path / "cache")
    assert isinstance(data.train, Split)
    assert data.train.images.dtype == torch.uint8
    assert (data.scale, scale_of(data.train)) == (255.0, 255.0)
    assert statistics(data.train) == statistics(data.train, scale=255.0) == (data.mean, data.std)


def test_streams_give_the_same_images(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", (RAMP * 65535).astype("uint16"), "png")
    files = tuple(sorted((root / "a").iterdir()))
    stream = StreamedSplit(files, torch.zeros(len(files), dtype=torch.int64), (1, 8, 8), workers=0, deep=True)
    (images, _), *_ = stream.subset(torch.arange(len(files))).batches(100)
    assert torch.equal(images, decode_all(files, Kind((1, 8, 8), deep=True)))
    ((crops, _),) = stream.batches(100, crop_seed=3)
    assert crops.dtype == torch.float32
    assert crops.unique().numel() > 256


def test_scaling_and_colour_channels(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", (RAMP * 65535).astype("uint16"), "png")
    image = decode(root / "a" / "0.png", (3, 16, 16), deep=True)
    assert image.shape == (3, 16, 16)
    assert torch.equal(image[0], image[2])
    assert image.unique().numel() > 128
    scaled = load(root, cache_dir=tmp_path / "cache", image_size=16)
    assert scaled.shape == (1, 16, 16)


def test_training_on_them(tmp_path: Path) -> None:
    data = read(folder(tmp_path / "x", (RAMP * 1e-3).astype("float32"), "tiff", count=24), tmp_path / "cache")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    history = fit(model, data, TrainConfig(epochs=3, lr=0.05, batch_size=8))
    assert history.epochs[-1].train_loss < history.epochs[0].train_loss


def test_depths_are_not_mixed(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", (RAMP * 65535).astype("uint16"), "png")
    Image.fromarray((RAMP * 255).astype("uint8")).save(root / "b" / "5.png")
    with pytest.raises(DataError, match=r"5\.png has 8 bits"):
        read(root, tmp_path / "cache")
    with pytest.raises(DataError, match="more than 8 bits"):
        decode(root / "a" / "0.png", (1, 8, 8))
    with pytest.raises(DataError, match="8 bits"):
        decode(root / "b" / "5.png", (1, 8, 8), deep=True)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    root = folder(tmp_path / "x", np.full((8, 8), np.nan, "float32"), "tiff")
    with pytest.raises(DataError, match="NaN or infinity"):
        read(root, tmp_path / "cache")


def png(width: int, height: int, depth: int, kind: int, rows: bytes) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


COLOURS = {
    "RGB.png": png(2, 2, 16, 2, (b"\0" + b"\1\2" * 6) * 2),
    "RGBA.png": png(2, 2, 16, 6, (b"\0" + b"\1\2" * 8) * 2),
    "LA.png": png(2, 2, 16, 4, (b"\0" + b"\1\2" * 4) * 2),
    "RGB.ppm": b"P6 2 2 65535\n" + bytes(24),
}


@pytest.mark.parametrize("name", COLOURS)
def test_colours_of_16_bits_are_refused_not_halved(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(COLOURS[name])
    with pytest.raises(DataError, match="16 bits per colour"):
        decode(tmp_path / name, (3, 2, 2))


def test_images_that_lie_about_their_size(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(png(12_000, 12_000, 8, 2, b"\0"))
    with pytest.raises(DataError, match=r"12,000 × 12,000 pixels, more than its \d+ bytes"):
        decode(tmp_path / "x.png", (3, 8, 8))
    (tmp_path / "y.png").write_bytes(png(1000, 1000, 8, 2, b"\0"))
    with pytest.raises(DataError, match="damaged"):
        decode(tmp_path / "y.png", (3, 8, 8))


def test_other_formats_than_the_endings_say(tmp_path: Path) -> None:
    """PostScript would be drawn by a program of its own."""
    (tmp_path / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="no image"):
        decode(tmp_path / "x.png", (3, 8, 8))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK"])
def test_modes_of_eight_bits(tmp_path: Path, mode: str) -> None:
    ending = {"CMYK": "jpg", "PA": "png"}.get(mode, "png")
    image = Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).convert("L" if mode == "PA" else mode)
    image.save(tmp_path / f"x.{ending}")
    assert decode(tmp_path / f"x.{ending}", (3, 8, 8)).float().mean() > 180


def test_the_first_frame_of_many(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), value, np.uint8)) for value in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert decode(tmp_path / "x.gif", (1, 8, 8)).unique().tolist() == [10]


def test_sizes_beyond_signed_numbers(tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.fromarray(np.full((8, 8), -2, np.int32)).save(out, "TIFF")
    content = bytearray(out.getvalue())
    tag = content.index(struct.pack("<HHI", 339, 3, 1))
    content[tag + 8] = 1  # whole numbers without a sign
    (tmp_path / "x.tiff").write_bytes(content)
    assert decode(tmp_path / "x.tiff", (1, 8, 8), deep=True).unique().tolist() == [float(np.float32(2**32 - 2))]
