"""Data sets: small ones in memory as uint8, large ones streamed from files."""

from __future__ import annotations

from secateur.data.load import DATASETS, DataEntry, load
from secateur.data.streamed import StreamedSplit
from secateur.data.types import IMAGENET, AnySplit, DataSet, Split, scale_of, statistics

__all__ = [
    "DATASETS",
    "IMAGENET",
    "AnySplit",
    "DataEntry",
    "DataSet",
    "Split",
    "StreamedSplit",
    "load",
    "scale_of",
    "statistics",
]
