"""Keeping libraries quiet that write to the terminal: through Python, or from compiled code past its streams."""

from __future__ import annotations

import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress

__all__ = ["quiet", "silence"]


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps warnings, log lines and progress marks of exporters away from the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def silence() -> Iterator[None]:
    """Sends what the process writes to its standard streams nowhere, for a while."""
    with suppress(ValueError, OSError):  # closed, or no real file
        sys.stdout.flush()
        sys.stderr.flush()
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for stream, _ in kept:
            os.dup2(nowhere, stream)
        yield
    finally:
        for stream, copy in kept:
            os.dup2(copy, stream)
            os.close(copy)
        os.close(nowhere)
