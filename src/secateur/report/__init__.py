"""Measurements as one HTML page, and as one small picture."""

from __future__ import annotations

from secateur.report.figure import picture
from secateur.report.page import write_report
from secateur.report.rows import block_rows, layer_rows
from secateur.report.schema import (
    BlockRow,
    Curve,
    CurvePoint,
    LayerRow,
    Network,
    Pinned,
    Results,
)

__all__ = [
    "BlockRow",
    "Curve",
    "CurvePoint",
    "LayerRow",
    "Network",
    "Pinned",
    "Results",
    "block_rows",
    "layer_rows",
    "picture",
    "write_report",
]
