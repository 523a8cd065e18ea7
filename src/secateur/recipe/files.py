"""Files that are either whole or not there, and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.errors import DataError, InputError

__all__ = ["disk_errors", "lock", "read_json", "sweep", "write_json", "write_text"]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch and safetensors report a full disk as errors of their own, without an errno.
_FULL_WORDS = ("No space left on device", "Disk quota exceeded", "PytorchStreamWriter failed writing")


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` in one step: readers see the old file or the new one, never half."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # mkstemp makes files that only their owner can read
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON in one step; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads one JSON object; raises :class:`DataError` that names a missing or damaged file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{path} is damaged: {error}. Delete its folder and start the run again.") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{path} is damaged: it holds a {type(value).__name__}, not an object.")
    return dict(value)


def sweep(folder: Path) -> None:
    """Deletes what a killed process was writing in ``folder`` and below: all hidden files but the lock.

    Every part of Secateur writes a file under a hidden name first and gives it its own name when it is whole.
    """
    for path in sorted(folder.rglob(".*")):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != ".lock":
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process; the system frees it when the process ends, however it ends.

    Raises:
        InputError: Another process works in the folder.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks, and two runs in one folder are the user's to avoid
        yield
        return
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                yield  # a file system without locks
                return
            raise InputError(
                f"Another process is working in {folder}. Wait for it, or choose another --out folder."
            ) from error
        yield


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    return any(word in str(error) for word in _FULL_WORDS)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__


@contextlib.contextmanager
def disk_errors(folder: Path, then: str = "try again") -> Iterator[None]:
    """Turns a full disk into one clear :class:`DataError`; ``then`` is what to do once there is space."""
    try:
        yield
    except Exception as error:
        if any(_is_full(cause) for cause in _causes(error)):
            raise DataError(f"The disk is full: cannot write in {folder}. Free some space, then {then}.") from error
        raise
