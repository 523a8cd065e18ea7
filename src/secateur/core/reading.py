"""Opening files that somebody else may have made: plain files only, and never more memory than they account for."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.core.errors import SecateurError, first_line

__all__ = [
    "LARGEST_JSON", "allowance", "file_digest", "kind_of", "opened", "parse_json", "plain", "read_bytes", "read_json",
    "read_text",
]  # fmt: skip

Fault = type[SecateurError]

_OF_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_GENEROUS, _TIMES = 128 * 2**20, 100
_MOST_PARTS = 500_000  # lists and objects of one JSON text; each takes some hundred bytes, and two characters
_DEPTH = 500  # half of what Python calls within each other
LARGEST_JSON = 64 * 2**20
"""Bytes of a JSON file that nothing else limits."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


def allowance(size: int) -> int:
    """Bytes that a packed file of ``size`` bytes may unpack to, where nothing else says how many it should be.

    A hundred times its own size, or 128 MiB where that is more: what real data never reach, and a file that was
    made to fill the memory has to exceed.

    >>> allowance(115) == 128 * 2**20, allowance(10**9)
    (True, 100000000000)
    """
    return max(_GENEROUS, _TIMES * size)


def kind_of(mode: int) -> str:
    """What a file of this mode is, in words; empty for a plain one.

    >>> kind_of(0o100644), kind_of(0o010644)
    ('', 'a named pipe')
    """
    if stat.S_ISREG(mode):
        return ""
    return next((words for test, words in _KINDS if test(mode)), "no plain file")


def plain(path: str | PathLike[str], fault: Fault, *, largest: int | None = None) -> Path:
    """Checks that a path leads to a plain file, for libraries that open it themselves; they would wait at a pipe.

    Args:
        path: Links are followed.
        fault: The class of the error.
        largest: Bytes that the format allows.

    Raises:
        SecateurError: Of the class ``fault``: nothing there, a folder, a pipe, a device, links in a circle, too large.
    """
    place = Path(path)
    try:
        state = place.stat()
    except (OSError, ValueError) as error:  # a NUL in the name is a ValueError
        raise fault(f"Cannot read {path}: {_reason(error)}.") from error
    _check(place, state, fault, largest)
    return place


@contextmanager
def opened(path: str | PathLike[str], fault: Fault, *, largest: int | None = None) -> Iterator[io.BufferedReader]:
    """Opens a plain file for reading bytes; errors while it is read are of the class ``fault`` too.

    Raises:
        SecateurError: What :func:`plain` raises, or the file cannot be read.
    """
    place = plain(path, fault, largest=largest)
    # A pipe that took the file's place since is not waited for either.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        file = os.fdopen(os.open(place, flags), "rb")
    except OSError as error:
        raise fault(f"Cannot read {path}: {_reason(error)}.") from error
    try:
        with file:
            _check(place, os.fstat(file.fileno()), fault, largest)
            yield file
    except OSError as error:
        if error.filename is not None or error.errno in _OF_WRITING:  # of another file that is written meanwhile
            raise
        raise fault(f"Cannot read {path}: {_reason(error)}.") from error


def _check(path: Path, state: os.stat_result, fault: Fault, largest: int | None) -> None:
    if kind := kind_of(state.st_mode):
        raise fault(f"Cannot read {path}: it is {kind}, not a plain file.")
    if largest is not None and state.st_size > largest:
        raise fault(f"{path} is too large: {state.st_size:,} bytes; a file of this kind has {largest:,} at most.")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or first_line(error)


def file_digest(path: str | PathLike[str], fault: Fault) -> str:
    """SHA-256 of a plain file.

    Raises:
        SecateurError: Of the class ``fault``; see :func:`opened`.
    """
    with opened(path, fault) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_bytes(path: str | PathLike[str], fault: Fault, *, largest: int | None = None) -> bytes:
    """The content of a plain file.

    Raises:
        SecateurError: Of the class ``fault``; see :func:`opened`.
    """
    with opened(path, fault, largest=largest) as file:
        return file.read() if largest is None else file.read(largest + 1)


def read_text(path: str | PathLike[str], fault: Fault, *, largest: int | None = None) -> str:
    """The content of a plain file of UTF-8 text.

    Raises:
        SecateurError: Of the class ``fault``: see :func:`opened`, or the file is no text.
    """
    content = read_bytes(path, fault, largest=largest)
    try:
        with io.TextIOWrapper(io.BytesIO(content), encoding="utf-8") as file:  # line ends as in any text file
            return file.read()
    except UnicodeDecodeError as error:
        raise fault(f"{path} is not a text file: {error}.") from error


def read_json(
    path: str | PathLike[str], fault: Fault, *, largest: int = LARGEST_JSON, finite: bool = False, each: int = 0
) -> Any:
    """The value of a plain file of JSON; with ``finite`` its numbers are neither NaN nor infinite; ``each`` as below.

    Raises:
        SecateurError: Of the class ``fault``: see :func:`read_text` and :func:`parse_json`.
    """
    return parse_json(read_text(path, fault, largest=largest), str(path), fault, finite=finite, each=each)


def parse_json(text: str | bytes, what: str, fault: Fault, *, finite: bool = False, each: int = 0) -> Any:
    """Reads JSON in which every key stands once, without deep nesting and without a crowd of tiny parts.

    Args:
        text: The JSON.
        what: Name for messages.
        fault: The class of the error.
        finite: Whether NaN and infinity, which are no JSON but which Python reads, are refused.
        each: Bytes of text for which one more part is allowed, in files that grow with the data they describe; 0 for
            the fixed number alone.

    Raises:
        SecateurError: Of the class ``fault``: no JSON, a key given twice, nested too deeply, or too many parts.

    >>> parse_json('{"a": [1, 2]}', "the file", SecateurError)
    {'a': [1, 2]}
    """
    brackets: tuple[Any, ...] = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    most = max(_MOST_PARTS, len(text) // each if each else 0)
    if sum(map(text.count, brackets)) > most:
        raise fault(f"{what} is damaged: it holds more than {most:,} lists and objects.")
    try:
        numbers: dict[str, Any] = {"parse_float": _finite, "parse_constant": _finite} if finite else {}
        found = json.loads(text, object_pairs_hook=_once, **numbers)
    except RecursionError as error:
        raise fault(f"{what} is damaged: it is nested too deeply.") from error
    except ValueError as error:
        raise fault(f"{what} is not JSON: {first_line(error)}.") from error
    if _is_deep(found):  # newer Pythons read what they could not write or copy
        raise fault(f"{what} is damaged: it is nested too deeply.")
    return found


def _is_deep(value: Any) -> bool:
    """Whether lists and objects lie in more than :data:`_DEPTH` others."""
    level = [value]
    for _ in range(_DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list)))
        level = [inner for part in parts for inner in part if isinstance(inner, (dict, list))]
        if not level:
            return False
    return True


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:80]} is no finite number")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is given twice")
    return found
