"""The report: one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.report.schema import Results

__all__ = ["write_report"]


def write_report(results: Results | Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Writes a self-contained HTML report."""
    raise NotImplementedError
