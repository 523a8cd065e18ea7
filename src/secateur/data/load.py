"""Data sets by name or path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from secateur.data.types import DataSet
from secateur.registry import Registry

__all__ = ["DATASETS", "DataEntry", "load"]


@dataclass(frozen=True)
class DataEntry:
    """A data set that can be loaded by name.

    Attributes:
        name: What :func:`load` calls it.
        summary: One line.
        needs: What the path after the colon has to be; empty for embedded data.
    """

    name: str
    summary: str
    needs: str
    read: Callable[..., Any]


DATASETS: Registry[DataEntry] = Registry("data set")


def load(
    name_or_path: str | Path,
    *,
    validation: float = 0.1,
    seed: int = 0,
    limit: int | None = None,
    cache_dir: str | Path | None = None,
    image_size: int | None = None,
) -> DataSet:
    """Loads ``digits``, ``NAME:PATH`` or a bare path."""
    raise NotImplementedError
