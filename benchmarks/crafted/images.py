"""Folders of images, one of which is something else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tests.data.test_depths import COLOURS, png

from . import MARK, Crafted, no_files
from .archives import COMMANDS, images, opens


def folder(where: Path) -> Path:
    root = where / "images"
    for label in (0, 1):
        for name, content in images(label):
            path = root / name.removeprefix("d/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return root


def with_one(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(where: Path) -> Path:
        root = folder(where)
        (root / "a" / name).write_bytes(content)
        return root

    return make


def deep(kind: str) -> Callable[[Path], Path]:
    def make(where: Path) -> Path:
        root = folder(where)
        values = np.linspace(0, 1000, 784).reshape(28, 28).astype(kind)
        values.flat[0] = np.nan if kind == "float32" else values.flat[0]
        Image.fromarray(values).save(root / "a" / "deep.tiff")
        return root

    return make


SHIFTED = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", 1) + struct.pack("<HHII", 256, 4, 2**31, 2**31)

ODD = {
    "a bomb of 12,000 pixels a side.png": png(12_000, 12_000, 8, 2, b"\0"),
    "a bomb of 2 billion pixels a side.png": png(2**31 - 1, 2**31 - 1, 8, 2, b"\0"),
    "a bomb of text.png": png(28, 28, 8, 0, b"\0" * 29 * 28)[:-12]
    + struct.pack(">I", len(packed := b"a\0\0" + zlib.compress(bytes(2**28)))) + b"zTXt" + packed
    + struct.pack(">I", zlib.crc32(b"zTXt" + packed)),
    "truncated.png": png(28, 28, 8, 0, b"\0" * 20),
    "a bmp of billions.bmp": b"BM" + struct.pack("<IHHI", 100, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
    "a gif of 65535 a side.gif": b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x02\x02\x4c\x01\0;",
    "a ppm of billions.ppm": b"P6 1000000000 1000000000 255\n",
    "a tiff of lies.tif": SHIFTED,
    "PostScript.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n%%EndComments\n"
    + f"(%pipe%touch {MARK}) (w) file closefile showpage\n".encode(),
    "a web page.jpg": b"<html>" * 100,
    "nothing.png": b"",
}  # fmt: skip


def crafted() -> Iterator[Crafted]:
    yield Crafted("good ones", folder, opens, COMMANDS, fine=True)
    for name, content in (ODD | COLOURS).items():
        yield Crafted(name, with_one(name, content), opens, COMMANDS)
    for kind in ("uint16", "int32", "float32"):
        yield Crafted(f"one of {kind} among others", deep(kind), opens, COMMANDS)
    for name, make in no_files("odd.png").items():
        if name != "a folder":
            yield Crafted(name, lambda f, m=make: (m(folder(f) / "a"), f / "images")[1], opens, COMMANDS)
    yield Crafted("folders in a circle", circle, opens, COMMANDS)


def circle(where: Path) -> Path:
    (where / "images").mkdir()
    (where / "images" / "again").symlink_to(".")
    return where / "images"
