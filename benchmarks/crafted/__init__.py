"""Files that were made to harm, by kind: each module here is a kind, with one function, ``crafted``.

Many of them stand in the tests, where each has the words that it must be answered with; here they go through Python and
the command line and are watched. A new kind is a new module.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
for place in (ROOT, ROOT / "tests"):  # tests import helpers from their own folder
    if str(place) not in sys.path:
        sys.path.append(str(place))

MARK = "was-run"
"""What an attack tries to leave in the present folder, and all that it does."""


@dataclass(frozen=True)
class Crafted:
    """A file (or folder) of a stranger.

    Attributes:
        name: What is wrong with it.
        make: Writes it into the given empty folder and returns what is to be opened.
        opens: Opens it from Python.
        commands: Command lines that open it, with ``{}`` for it.
        fine: Whether it may be taken: a control, or a file that is odd and harmless.
    """

    name: str
    make: Callable[[Path], Path]
    opens: Callable[[Path], Any]
    commands: tuple[tuple[str, ...], ...] = ()
    fine: bool = False


def kinds() -> dict[str, Callable[[], Iterator[Crafted]]]:
    """The kinds by name."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        found[module.name] = importlib.import_module(f"{__name__}.{module.name}").crafted
    return dict(sorted(found.items()))


def holding(name: str, content: bytes | str) -> Callable[[Path], Path]:
    """Makes a file of the given content."""

    def make(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def damaged(copied: Callable[[Path], Path], name: str, change: Callable[[Path], object]) -> Callable[[Path], Path]:
    """Makes a copied folder in which one file is changed."""

    def make(folder: Path) -> Path:
        path = copied(folder)
        change(path / name)
        return path

    return make


def no_files(name: str) -> dict[str, Callable[[Path], Path]]:
    """What may stand in a file's place: nothing, a pipe, a folder, a device, links in a circle, a socket."""
    import os
    import socket

    def pipe(folder: Path) -> Path:
        os.mkfifo(folder / name)
        return folder / name

    def link(to: str) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            (folder / name).symlink_to(to)
            return folder / name

        return make

    def inside(folder: Path) -> Path:
        (folder / name).mkdir()
        return folder / name

    def plug(folder: Path) -> Path:
        with socket.socket(socket.AF_UNIX) as there:
            there.bind(str(folder / name))
        return folder / name

    return {"a pipe": pipe, "a folder": inside, "a socket": plug, "zeros without end": link("/dev/zero"),
            "a link to itself": link(name), "a link to nothing": link("nowhere")}  # fmt: skip
