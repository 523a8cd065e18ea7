"""Large image folders."""

from __future__ import annotations


class StreamedSplit:
    """Decoded from files as asked for."""
