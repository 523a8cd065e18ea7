"""Processes that end together, however the first of them ends, and temporary files that end with them."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from multiprocessing import process as multiprocessing_process
from pathlib import Path
from typing import Any

from secateur.core.plugins import carried

__all__ = ["TERMINATED", "Terminated", "end_on_sigterm", "follow_parent", "forks_follow", "imports_from_nowhere",
           "scratch", "with_scratch"]  # fmt: skip

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a command that SIGTERM ended."""

_PREFIX = "secateur-run-"
_PR_SET_PDEATHSIG = 1
_registered = False


class Terminated(KeyboardInterrupt):
    """SIGTERM came: everything ends as it does after Ctrl-C."""


def end_on_sigterm() -> None:
    """Lets SIGTERM raise :class:`Terminated` in the main thread; for commands only, a library leaves signals alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would only disturb the tidying up
    raise Terminated


def follow_parent() -> None:
    """Lets the system kill this process when its parent dies, where the system can (Linux)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def forks_follow() -> None:
    """Lets every process that is forked from now on (those that decode images) die with this one.

    For processes that only Secateur runs in: it cannot be taken back.
    """
    global _registered
    if hasattr(os, "register_at_fork") and not _registered:
        os.register_at_fork(after_in_child=follow_parent)
        _registered = True


@contextlib.contextmanager
def imports_from_nowhere() -> Iterator[None]:
    """Lets processes that are started in the block, multiprocessing's too, import nothing from where one stands.

    Else Python looks there first, and whoever stands in a stranger's folder runs that folder's ``json.py``.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def with_scratch() -> dict[str, str]:
    """The environment for a process whose temporary files shall lie where this one's do; it has the same plug-ins."""
    return {**os.environ, "TMPDIR": tempfile.gettempdir(), **carried()}


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for all temporary files of this process, whoever makes them, until the block ends.

    It lies in the system's temporary folder, where paths are short enough for the sockets that go into it too. A lock
    dies with the process, and so whoever comes next deletes what a killed one left.
    """
    before, (folder, handle) = tempfile.tempdir, _made(Path(tempfile.gettempdir()))
    tempfile.tempdir = str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        _forget(folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _made(place: Path) -> tuple[Path, int]:
    """A new folder, locked by the handle."""
    _sweep(place)
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
        handle = os.open(folder, os.O_RDONLY)
        _lock(handle, wait=True)
        if folder.is_dir():  # nobody took it for a dead one's before it was locked
            return folder, handle
        os.close(handle)


def _sweep(place: Path) -> None:
    """Deletes the folders of processes of this user that are no more."""
    with os.scandir(place) as entries:
        found = [e for e in entries if e.name.startswith(_PREFIX) and e.is_dir(follow_symlinks=False)]
    for entry in found:
        with contextlib.suppress(OSError):
            handle = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                if os.fstat(handle).st_uid == os.getuid() and _lock(handle, wait=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
            finally:
                os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    """Whether the folder could be locked; never where there are no locks, so that nothing is taken for dead."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


def _forget(folder: Path) -> None:
    """Lets multiprocessing make a new folder for its sockets if it remembers one in here."""
    config: dict[str, Any] = getattr(multiprocessing_process.current_process(), "_config", {})
    if str(config.get("tempdir") or "").startswith(str(folder)):
        del config["tempdir"]
