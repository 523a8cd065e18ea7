"""Archives of images."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.data.test_archive import BAD_TARS, tar_with
from tests.data.test_hostile_files import TARS, ZIPS

from secateur.data import load

from . import Crafted, no_files

COMMANDS = (
    ("prune", "lenet300", "--criterion", "taylor", "--data", "{}", "--ratio", "0.5", "--out", "out"),
    ("recover", "lenet300", "--data", "{}", "--ratio", "0.5", "--out", "out"),
)


def opens(path: Path) -> Any:
    with tempfile.TemporaryDirectory() as cache:
        return load(path, cache_dir=cache)


def images(label: int) -> Iterator[tuple[str, bytes]]:
    for number in range(5):
        out = io.BytesIO()
        Image.fromarray(np.full((28, 28), 40 * label + number, np.uint8)).save(out, "PNG")
        yield f"d/{'ab'[label]}/{number}.png", out.getvalue()


def good(path: Path, extra: str = "", data: bytes = b"") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for label in (0, 1):
            for name, content in images(label):
                out.writestr(name, content)
        if extra:
            out.writestr(extra, data)
    return path


def crafted() -> Iterator[Crafted]:
    yield Crafted("a good one", lambda f: good(f / "x.zip"), opens, COMMANDS, fine=True)
    inner = "a bomb inside, which stays packed"
    yield Crafted(inner, lambda f: good(f / "x.zip", "d/42.zip", bomb()), opens, COMMANDS, fine=True)
    for name, (make, _) in ZIPS.items():
        yield Crafted(f"zip: {name}", lambda f, m=make: m(f / "bad.zip"), opens, COMMANDS)
    for name, (ending, make, _) in TARS.items():
        yield Crafted(f"tar: {name}", lambda f, m=make, e=ending: m(f / f"bad.{e}"), opens, COMMANDS)
    for name, kind, link, words in BAD_TARS:
        yield Crafted(
            f"tar: {name} {words}", lambda f, a=(name, kind, link): tarred(f / "bad.tar", *a), opens, COMMANDS
        )
    for name in ("../was-run", "/tmp/was-run", "d/../../was-run", "..\\was-run", "C:was-run", "d/cat/\x00.png"):
        yield Crafted(f"zip: {name!r}", lambda f, n=name: good(f / "x.zip", n, b"x"), opens, COMMANDS, "\0" in name)
    for ending in ("zip", "tar", "tar.gz", "tar.xz"):
        for name, make in no_files(f"x.{ending}").items():
            if name != "a folder":
                yield Crafted(f"{ending}: {name}", make, opens, COMMANDS)


def tarred(path: Path, name: str, kind: bytes, link: str) -> Path:
    tar_with(path, name, kind, link)
    return path


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", bytes(2**27))
    return out.getvalue()
