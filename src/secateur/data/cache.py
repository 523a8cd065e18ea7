"""The cache folder, atomic writes into it, and decoded images kept as one file."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.core.errors import DataError
from secateur.core.files import is_full, whole
from secateur.data.types import Split

__all__ = ["cache_folder", "disk_errors", "remember"]

Parts = tuple[tuple[str, ...], dict[str, Split]]
"""Class names, and splits by name."""


def cache_folder(given: str | Path | None) -> Path:
    """``given``, else ``$SECATEUR_CACHE``, else ``secateur`` in the user's cache folder; not made yet.

    Raises:
        DataError: None of them is there: the user has no home.
    """
    if given is not None:
        return Path(given)
    if "SECATEUR_CACHE" in os.environ:
        return Path(os.environ["SECATEUR_CACHE"])
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "secateur"
    except RuntimeError as error:
        raise DataError(
            "There is no place to keep unpacked data, for you have no home: say where with SECATEUR_CACHE=FOLDER."
        ) from error


@contextlib.contextmanager
def disk_errors(what: str, where: Path) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into a :class:`DataError`."""
    try:
        yield
    except OSError as error:
        if is_full(error):
            raise DataError(
                f"The disk is full: {what} did not fit into {where}. Free some space, or choose another "
                f"cache folder (cache_dir, or the environment variable SECATEUR_CACHE)."
            ) from error
        raise DataError(f"{what} could not be written to {where}: {error}") from error


def remember(cache: Path, key: str, build: Callable[[], Parts]) -> Parts:
    """Returns what ``build`` returns, from a file of decoded images if it was built before."""
    path = cache / "decoded" / f"{key}.safetensors"
    known = _read(path)
    if known is not None:
        return known
    classes, splits = build()
    _write(path, classes, splits)
    return classes, splits


def _read(path: Path) -> Parts | None:
    """The remembered splits; ``None`` if there are none or the file is damaged (it is then built anew)."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            splits = {
                name: Split(file.get_tensor(f"{name}.images"), file.get_tensor(f"{name}.labels"))
                for name in about["splits"]
            }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        return None
    return tuple(about["classes"]), splits


def _write(path: Path, classes: tuple[str, ...], splits: dict[str, Split]) -> None:
    tensors: dict[str, Tensor] = {}
    for name, split in splits.items():
        tensors[f"{name}.images"], tensors[f"{name}.labels"] = split.images.contiguous(), split.labels
    about = json.dumps({"classes": classes, "splits": list(splits)})
    with disk_errors("the decoded images", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as draft:
            _save(tensors, draft, about)


def _save(tensors: dict[str, Tensor], path: Path, about: str) -> None:
    try:
        save_file(tensors, path, metadata={"about": about})
    except SafetensorError as error:  # it words the system's error in its own type
        raise OSError(errno.ENOSPC if is_full(error) else errno.EIO, str(error)) from error
