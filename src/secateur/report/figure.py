"""One small before/after figure for a README, without a browser."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from secateur.report.schema import Results

__all__ = ["picture"]


def picture(results: Results | Mapping[str, Any], path: str | PathLike[str]) -> Path:
    """Writes one small before/after figure (``.svg`` or ``.png``)."""
    raise NotImplementedError
