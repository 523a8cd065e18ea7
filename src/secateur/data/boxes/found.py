"""What the readers of the three formats have in common: what they find, the faults in it, and paths that files name."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from secateur.core.errors import DataError
from secateur.data.boxes.annotated import Corners

__all__ = ["HOW_TO_GO_ON", "Described", "Faults", "Found", "Labelled", "inside", "nameable"]

HOW_TO_GO_ON = (
    'Correct the files, or load with faulty="mend": it clips boxes to their image, and leaves out what then has no '
    "area, an unknown class, or one of image and labels only; all of it is listed in .mended."
)
_SHOWN = 3
_ROUNDING = 1.0
"""Pixels that a box may reach beyond its image: what rounding does. It is clipped."""


@dataclass(frozen=True)
class Labelled:
    """One box as a file has it.

    Attributes:
        corners: In pixels.
        name: Its class.
        where: File and line, for messages.
        ignored: See :class:`secateur.data.boxes.Boxes`.
    """

    corners: Corners
    name: str
    where: str
    ignored: bool = False


@dataclass(frozen=True)
class Described:
    """One image as a file describes it.

    Attributes:
        image: Its file.
        boxes: Its objects.
        where: What describes it, for messages.
        size: (H, W) that the description says; ``None`` where it says none.
    """

    image: Path
    boxes: Sequence[Labelled]
    where: str
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Found:
    """What a reader returns.

    Attributes:
        parts: Images by part: ``train``, ``validation``, ``test``; at least one.
        classes: Class names in the order of their labels; ``None`` where the format has no list of them.
    """

    parts: dict[str, list[Described]]
    classes: tuple[str, ...] | None


@dataclass
class Faults:
    """Faults in labels that are not the file's form: collected, so that a message can say how many there are."""

    sentences: list[str] = field(default_factory=list)

    def add(self, where: str, words: str) -> None:
        """Notes one; ``words`` go on where the place ends."""
        self.sentences.append(f"{where}: {words}.")

    def within(self, root: Path) -> tuple[str, ...]:
        """The sentences with paths as they are in the data set, which may lie unpacked in some cache."""
        start = f"{root}{os.sep}"
        return tuple(sentence.removeprefix(start) for sentence in self.sentences)

    def refuse(self, name: str, root: Path) -> None:
        """Raises an error that names the first ones.

        Raises:
            DataError: If there are any.
        """
        if self.sentences:
            count, more = len(self.sentences), len(self.sentences) - _SHOWN
            first = " ".join(self.within(root)[:_SHOWN]) + (f" And {more:,} more." if more > 0 else "")
            raise DataError(f"The labels of {name} have {count:,} fault{'s' * (count != 1)}. {first} {HOW_TO_GO_ON}")

    def clipped(self, box: Labelled, size: tuple[int, int]) -> Corners | None:
        """The box within its image, as far as it reaches into it; notes what is wrong with it.

        Args:
            box: As the file has it.
            size: (H, W) of its image.
        """
        if not all(map(math.isfinite, box.corners)):
            self.add(box.where, f"the box of {box.name!r} has corners that are no finite numbers")
            return None
        x1, y1, x2, y2 = box.corners
        height, width = size
        if x2 <= x1 or y2 <= y1:
            self.add(box.where, f"the box of {box.name!r} has no area: {_words(box.corners)}")
            return None
        beyond = max(-x1, -y1, x2 - width, y2 - height)
        inner = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        empty = inner[2] <= inner[0] or inner[3] <= inner[1]
        if beyond > _ROUNDING or empty:
            words = f"the box of {box.name!r} reaches outside its image of {width} × {height} pixels: "
            self.add(box.where, words + _words(box.corners))
        return None if empty else inner


def _words(corners: Corners) -> str:
    return "from {:g}, {:g} to {:g}, {:g}".format(*corners)


def inside(root: Path, name: str, where: str) -> Path:
    """A path that a file names, which must lie in the data set's folder; links in there are followed, as anywhere.

    Args:
        root: The folder.
        name: As the file has it.
        where: The file and line, for messages.

    Raises:
        DataError: It leads out of the folder, or is longer than names of files can be.
    """
    place = PurePosixPath(name.replace("\\", "/"))
    outside = place.is_absolute() or ".." in place.parts or ":" in name or "\0" in name or not name.strip()
    if outside:
        raise DataError(f"{where}: the file {name[:80]!r} does not lie in the data set's folder, and is not opened.")
    if not nameable(root / place):
        raise DataError(f"{where}: no file can have the name {name[:80]!r}…, which has {len(name):,} characters.")
    return root / place


def nameable(path: Path) -> bool:
    """Whether a file could have this name; asking for one that is too long is an error of the operating system."""
    try:
        path.stat()
    except OSError as error:
        return error.errno != errno.ENAMETOOLONG
    except ValueError:  # characters that no name has: there is no such file, and so say the questions after this one
        return True
    return True
