"""Keeping libraries quiet that write to the terminal from compiled code, past Python's own streams."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["silence"]


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
