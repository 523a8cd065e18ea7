"""Files that are either whole or not there, and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from secateur.core import reading
from secateur.core.errors import DataError, InputError

__all__ = [
    "clear_hidden",
    "disk_errors",
    "is_full",
    "lock",
    "new_folder",
    "read_json",
    "refuse_existing",
    "refuse_links",
    "settle",
    "whole",
    "write_bytes",
    "write_json",
    "write_text",
]

_FULL = (errno.ENOSPC, errno.EDQUOT)
# torch and safetensors report a full disk as errors of their own, without an errno.
_FULL_WORDS = ("No space left on device", "os error 28", "Disk quota exceeded", "PytorchStreamWriter failed writing")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The one way in which a file is written: readers see the old file or the new one, never half of it.

    What is written goes to a hidden name beside ``path`` (the same ending, so that writers that look at it agree), to
    the disk, and then to its own name in one step. If the block fails, nothing is left; if the process is killed, a
    hidden file, which :func:`clear_hidden` deletes.

    Yields:
        The hidden name, of an empty file.

    >>> folder = Path(tempfile.mkdtemp())
    >>> with whole(folder / "note.txt") as draft:
    ...     _ = draft.write_text("whole")
    >>> [path.name for path in folder.iterdir()]
    ['note.txt']
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    draft = Path(name)
    try:
        yield draft
        settle(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def settle(draft: Path, path: Path) -> None:
    """Gives a complete file its name, so that a crash of the machine leaves the old one or the new one too."""
    draft.chmod(0o644)  # mkstemp and safetensors make files that only their owner can read
    with draft.open("r+b") as file:
        os.fsync(file.fileno())
    draft.replace(path)
    with contextlib.suppress(OSError):  # Windows opens no folders; some file systems sync none
        handle = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, content: bytes) -> Path:
    """Writes ``content`` to ``path`` in one step."""
    with whole(path) as draft:
        draft.write_bytes(content)
    return path


def write_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` in one step, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Writes ``value`` as indented JSON in one step; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path, *, largest: int = reading.LARGEST_JSON) -> dict[str, Any]:
    """Reads one JSON object of finite numbers.

    Raises:
        DataError: Names a file that is missing, no plain file, too large or damaged.
    """
    value = reading.read_json(path, DataError, largest=largest, finite=True)
    if not isinstance(value, Mapping):
        raise DataError(f"{path} is damaged: it holds a {type(value).__name__}, not an object.")
    return dict(value)


def refuse_existing(path: Path, option: str) -> None:
    """Checks that a command writes over nothing: what its user names for a result is not there yet.

    Functions are other: what they are told to write takes the place of what is there, in one step.

    Raises:
        InputError: Something lies at ``path``; ``option`` is what named it.

    >>> refuse_existing(Path("."), "--out")
    Traceback (most recent call last):
    secateur.core.errors.InputError: . exists already. Choose another --out.
    """
    if os.path.lexists(path):
        raise InputError(f"{path} exists already. Choose another {option}.")


def refuse_links(folder: Path) -> None:
    """Checks that a run's folder holds files and folders only: what is written into it shall not land elsewhere.

    Raises:
        DataError: Names a link, named pipe, socket or device.
    """
    for where, folders, files in os.walk(folder):
        for path in (Path(where, name) for name in (*folders, *files)):
            try:
                mode = path.lstat().st_mode
            except FileNotFoundError:  # another process works in it
                continue
            kind = "a link" if stat.S_ISLNK(mode) else "" if stat.S_ISDIR(mode) else reading.kind_of(mode)
            if kind:
                raise DataError(
                    f"{path} is {kind}; a run holds files and folders only. Remove it, or put a copy there."
                )


def clear_hidden(folder: Path) -> None:
    """Deletes what a killed process was writing in ``folder`` and below: all hidden files but the lock.

    Every part of Secateur writes a file under a hidden name first and gives it its own name when it is whole.
    """
    for path in sorted(folder.rglob(".*")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != ".lock":
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets the name ``path`` when the block ends: whole, or not at all.

    Until then it lies beside, under a name of its own. What a killed process leaves there, the next start deletes.

    Raises:
        InputError: The folder cannot be made, is not empty, or another process is making it.
    """
    path = path.absolute()
    waiting = path.with_name(f".{path.name}.begin")
    try:
        waiting.mkdir(parents=True, exist_ok=True)
        with lock(waiting):
            try:
                shutil.rmtree(waiting / "new", ignore_errors=True)
                (waiting / "new").mkdir()
                yield waiting / "new"
                (waiting / "new").rename(path)  # onto nothing or an empty folder
            finally:
                shutil.rmtree(waiting, ignore_errors=True)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise InputError(f"Cannot make the folder {path}: {error.strerror}. Choose another.") from error


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds ``folder`` for this process; the system frees it when the process ends, however it ends.

    Raises:
        InputError: Another process works in the folder, or it cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks, and two runs in one folder are the user's to avoid
        yield
        return
    handle = _open_lock(folder / ".lock")
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):  # else: a file system without locks
                raise InputError(
                    f"Another process is working in {folder}. Wait for it, or choose another --out folder."
                ) from error
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    """Opens the lock's file, and nothing else that somebody put in its place."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno in _FULL:
            raise
        reason = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise InputError(f"Cannot lock {path.parent}: {path} cannot be opened ({reason}).") from error
    if kind := reading.kind_of(os.fstat(handle).st_mode):
        os.close(handle)
        raise InputError(f"Cannot lock {path.parent}: {path} is {kind}, not a plain file.")
    return handle


def is_full(error: BaseException) -> bool:
    """Whether an error says that the disk is full, in whatever words."""
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
        if any(is_full(cause) for cause in _causes(error)):
            raise DataError(f"The disk is full: cannot write in {folder}. Free some space, then {then}.") from error
        raise
