"""Compressed networks (``.sdc``)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.sparsify.test_storage import FORGERIES, GREEDY, ODD, forged, made_of

from secateur.models import create
from secateur.sparsity import compress, decompress, sparsify

from . import Crafted, holding, no_files


def crafted() -> Iterator[Crafted]:
    def good(folder: Path) -> Path:
        compress(sparsify(create("lenet300"), ratio=0.9).model, folder / "net.sdc", bits=3)
        return folder / "net.sdc"

    def changed(change: Callable[[Any], Any]) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            forged(good(folder), change)
            return folder / "net.sdc"

        return make

    def cut(folder: Path) -> Path:
        path = good(folder)
        path.write_bytes(path.read_bytes()[:-40])
        return shutil.copy(path, folder / "cut.sdc")

    yield Crafted("a good one", good, decompress, fine=True)
    for name, change in FORGERIES.items():
        yield Crafted(name, changed(change), decompress)
        yield Crafted(f"{name}, for a network", changed(change), lambda p: decompress(p, create("lenet300")))
    for name, entries in (GREEDY | ODD).items():
        yield Crafted(name, lambda f, e=entries: made_of(f / "net.sdc", e), decompress)
        yield Crafted(f"{name}, for a network", lambda f, e=entries: made_of(f / "net.sdc", e),
                      lambda p: decompress(p, create("lenet300")))  # fmt: skip
    yield Crafted("cut", cut, decompress)
    yield Crafted("empty", holding("net.sdc", b""), decompress)
    for name, make in no_files("net.sdc").items():
        yield Crafted(name, make, decompress)
