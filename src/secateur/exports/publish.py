"""Getting a file to its name: written and checked beside it first, so that what is there is whole or the old one."""

from __future__ import annotations

import tempfile
from os import PathLike
from pathlib import Path

from secateur.core.errors import ExportError
from secateur.core.files import settle

__all__ = ["publish", "scratch", "target"]


def target(path: str | PathLike[str]) -> Path:
    """Checks that a file can lie at ``path``.

    Raises:
        ExportError: It is a folder, or its folder does not exist.
    """
    path = Path(path)
    if path.is_dir():
        raise ExportError(f"Cannot write {str(path)!r}: it is a folder; give the name of a file in it.")
    if not path.parent.is_dir():
        raise ExportError(f"Cannot write {str(path)!r}: the folder {str(path.parent)!r} does not exist.")
    return path


def scratch(path: Path) -> tempfile.TemporaryDirectory[str]:
    """Opens a folder beside the file, on the same disk, so that the last step is a mere rename.

    Raises:
        ExportError: The folder cannot be written.
    """
    try:
        return tempfile.TemporaryDirectory(dir=path.parent, prefix=".secateur-export-")
    except OSError as error:
        raise ExportError(f"Cannot write into {str(path.parent)!r}: {error.strerror or error}.") from error


def publish(file: Path, path: Path) -> int:
    """Moves everything that lies around ``file`` beside ``path``, the file last, as it needs the others.

    Returns:
        Bytes of all of it.
    """
    files = sorted(file.parent.iterdir(), key=lambda entry: entry == file)
    size = sum(entry.stat().st_size for entry in files)
    for entry in files:
        settle(entry, path.parent / entry.name)
    return size
