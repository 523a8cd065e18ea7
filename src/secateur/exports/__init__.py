"""Networks as files for other runtimes: checked against PyTorch before they get their names."""

from __future__ import annotations

from secateur.exports.checks import ExportCheck
from secateur.exports.exports import export

__all__ = ["ExportCheck", "export"]
